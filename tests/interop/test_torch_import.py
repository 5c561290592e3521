"""The way back from an exported folder: bit for bit, also through PyTorch, and each way in which it is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from bridge_jax import paths
from bridge_jax.config import ConfigError
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.interop import torch_export, torch_import
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.run import origin
from bridge_jax.step import sharding
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process


@pytest.fixture(scope="module")
def stored(run):
    """The best checkpoint: its record and its config as an export holds them, its parameters, flat."""
    saves = Checkpoints(run, read_only=True)
    cfg = torch_export.without_places(saves.config(2))
    return dataclasses.replace(saves.meta(2), config=as_dict(cfg)), cfg, paths.flatten(torch_export.restore(saves, 2))


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """A copy of the exported folder, to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict


def write_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, change) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def assert_same(found, expected) -> None:
    found = paths.flatten(found)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert np.asarray(found[path]).dtype == np.float32
        assert np.asarray(found[path]).tobytes() == np.asarray(array).tobytes(), path


def test_export_and_import_give_the_same_bits(exported, stored):
    meta, cfg, params = torch_import.read(exported)
    assert (meta, cfg) == stored[:2]
    assert any(path.startswith("loss_weights/") for path in stored[2])
    assert_same(params, stored[2])


def test_a_model_tuned_in_pytorch_comes_home(exported, stored, tmp_path):
    model = BridgeModel.from_pretrained(exported)
    with torch.no_grad():
        model.heads.unimodal_text.linear.weight[3, 5] = 7.0
    model.save_pretrained(tmp_path / "tuned")
    _, cfg, params = torch_import.read(tmp_path / "tuned")
    assert cfg == stored[1]
    expected = dict(stored[2])
    path = "heads/unimodal_text/linear/kernel"
    expected[path] = np.array(expected[path])
    expected[path][5, 3] = 7.0
    assert_same(params, expected)


def test_a_run_starts_from_what_was_imported(exported, stored, tmp_path):
    torch_import.to_checkpoint(exported, tmp_path / "back")
    saves = Checkpoints(tmp_path / "back", read_only=True)
    data = dataclasses.replace(stored[1].data, vocabulary=str(exported / "tokenizer.json"))
    expected = dataclasses.replace(stored[1], data=data)
    assert (saves.best(), saves.config(2)) == (2, expected)
    assert saves.meta(2) == dataclasses.replace(stored[0], config=as_dict(expected))
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    torch_export.export(saves, 2, tmp_path / "again")  # it finds its vocabulary
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()
    cfg = dataclasses.replace(stored[1], init_from=str(tmp_path / "back"), seed=5)
    params = origin.initial(cfg, sharding.make_mesh(cfg.mesh))
    assert_same(params, stored[2])


def test_half_precision_is_read(copy, stored):
    write_tensors(copy, {name: array.astype(np.float16) for name, array in read_tensors(copy).items()})
    _, _, params = torch_import.read(copy)
    for path, array in paths.flatten(params).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, stored[2][path], rtol=1e-3, atol=1e-6)


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.pt")


def half_downloaded(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def wrong_shape(folder):
    tensors = read_tensors(folder)
    write_tensors(folder, tensors | {"bridge.layers.0.image_gate": np.zeros(2, np.float32)})


def renamed_tensor(folder):
    tensors = read_tensors(folder)
    tensors["heads.itm.schwelle"] = tensors.pop("heads.itm.threshold")
    write_tensors(folder, tensors)


def unknown_architecture(folder):
    change_config(folder, lambda values: values.update(model_type="blip"))


def no_record(folder):
    change_config(folder, lambda values: values.pop("bridge_jax"))


def another_schema(folder):
    change_config(folder, lambda values: values["bridge_jax"].update(schema=99))


def unknown_key(folder):
    change_config(folder, lambda values: values["bridge_jax"]["config"]["bridge"].update(layerz=2))


def another_model(folder):
    change_config(folder, lambda values: values.update(bridge_heads=1))


def no_loss_weight(folder):
    change_config(folder, lambda values: values["bridge_jax"]["loss_weights"].pop("itm"))


BAD = [
    (only_a_pickle, "expected model.safetensors or model.safetensors.index.json, found only pytorch_model.pt. Pickled"),
    (half_downloaded, "model.safetensors is not a whole safetensors file"),
    (
        wrong_shape,
        "tensor 'bridge.layers.0.image_gate' has shape (2,); expected () to fill 'bridge/layer_0/image_gate'",
    ),
    (
        renamed_tensor,
        "tensors that fill no parameter: heads.itm.schwelle; parameters without a tensor: heads/itm/threshold",
    ),
    (no_record, "key 'bridge_jax' is missing: expected a folder that tools.export_pytorch wrote"),
    (
        another_schema,
        f"config.json: checkpoint schema 99, this code reads 2 to {SCHEMA}: newer code wrote it: update",
    ),
    (unknown_key, "config.bridge.layerz is not a config key; nearest: 'layers'; another version of the code wrote"),
    (another_model, "key 'bridge_heads' is 1, but the config under 'bridge_jax' makes it 2: change both or neither"),
    (no_loss_weight, "parameters without a tensor: loss_weights/itm"),
]


@pytest.mark.parametrize(("spoil", "says"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_what_is_wrong_is_named_and_nothing_is_written(copy, tmp_path, spoil, says):
    spoil(copy)
    with pytest.raises(ConfigError, match=re.escape(says)):
        torch_import.to_checkpoint(copy, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def import_hf(*arguments):
    return process.run("tools.import_hf", *arguments)


def test_the_command_makes_a_checkpoint_once(exported, tmp_path):
    done = import_hf(exported, f"--workdir={tmp_path / 'back'}")
    assert (done.returncode, done.stderr) == (0, "")
    back = tmp_path / "back"
    assert done.stdout == f"{back}: step 2 of stage 'align'; start from it with --config.init_from={back}\n"
    again = import_hf(exported, f"--workdir={tmp_path / 'back'}")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        f"error: {tmp_path / 'back'} exists: expected a new folder, nothing is overwritten; move it or name another\n"
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (unknown_architecture, "model_type 'blip' is not supported"),
        (half_downloaded, "is not a whole safetensors file"),
    ],
)
def test_the_command_ends_with_one_line_and_exit_code_2(copy, tmp_path, spoil, says):
    spoil(copy)
    done = import_hf(copy, f"--workdir={tmp_path / 'back'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "back").exists()
