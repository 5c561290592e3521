"""What can lie on disk or on the hub: whole, sharded, half precision, pickled, torn, absent."""

import json
import re
import struct

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import save_file

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import, names


def refused(text: str):
    return pytest.raises(ConfigError, match=re.escape(text))


def assert_filled(params, folder, entries):
    for entry in entries:
        leaf = params
        for key in entry.path.split("/")[1:]:
            leaf = leaf[key]
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(entry.to_stored(leaf), folder.tensors[entry.name])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32_without_loss(vit_folder, vision, dtype):
    half = {name: array.astype(dtype) for name, array in vit_folder.tensors.items()}
    folder = vit_folder.write()
    save_file(half, folder / "model.safetensors")
    vit_folder.tensors = {name: array.astype(np.float32) for name, array in half.items()}
    assert_filled(hf_import.vision_params(folder, vision), vit_folder, names.vision(vision, "vit"))


def shard(folder):
    path, items = folder.write(), sorted(folder.tensors.items())
    (path / "model.safetensors").unlink()
    files = {"model-00001-of-00002.safetensors": items[::2], "model-00002-of-00002.safetensors": items[1::2]}
    for file, part in files.items():
        save_file(dict(part), path / file)
    weight_map = {name: file for file, part in files.items() for name, _ in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path, weight_map


def test_shards_are_one_model(vit_folder, vision):
    path, _ = shard(vit_folder)
    assert_filled(hf_import.vision_params(path, vision), vit_folder, names.vision(vision, "vit"))


def test_a_missing_shard_is_named(vit_folder, vision):
    path, _ = shard(vit_folder)
    (path / "model-00002-of-00002.safetensors").unlink()
    with refused("names shards that are not there: model-00002-of-00002.safetensors; fetch them"):
        hf_import.vision_params(path, vision)


def test_a_tensor_that_no_shard_holds_is_named(vit_folder, vision):
    path, weight_map = shard(vit_folder)
    weight_map["ghost.weight"] = "model-00001-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with refused("names tensors that no shard holds: ghost.weight"):
        hf_import.vision_params(path, vision)


def test_pickled_weights_are_refused_with_the_reason(vit_folder, vision):
    path = vit_folder.write()
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with refused(
        "expected model.safetensors or model.safetensors.index.json, found only pytorch_model.bin. "
        "Pickled weights can run code when they are opened"
    ):
        hf_import.vision_params(path, vision)


def test_broken_folders_are_refused(vit_folder, vision):
    path = vit_folder.write()
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with refused("model.safetensors is not a whole safetensors file"):
        hf_import.vision_params(path, vision)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60))
    with refused("model.safetensors is not a whole safetensors file"):
        hf_import.vision_params(path, vision)
    (path / "model.safetensors").unlink()
    with refused("found no weights"):
        hf_import.vision_params(path, vision)
    (path / "config.json").write_text("{")
    with refused("config.json is not JSON"):
        hf_import.vision_params(path, vision)
    (path / "config.json").unlink()
    with refused("config.json is missing; expected a folder in Hugging Face's layout"):
        hf_import.vision_params(path, vision)


def test_hub_ids_fetch_only_json_safetensors_vocabulary_and_card(vit_folder, vision, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, **arguments):
        asked.update(arguments, repo_id=repo_id)
        return str(vit_folder.write())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    params = hf_import.vision_params("google/vit-tiny", vision)
    assert_filled(params, vit_folder, names.vision(vision, "vit"))
    assert asked["repo_id"] == "google/vit-tiny"
    kept = huggingface_hub.utils.filter_repo_objects(
        [
            "config.json",
            "model.safetensors",
            "README.md",
            "pytorch_model.bin",
            "onnx/model.json",
            "tf_model.h5",
            "vocab.txt",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == ["config.json", "model.safetensors", "README.md", "vocab.txt"]


def test_what_is_neither_a_folder_nor_on_the_hub_is_refused(vision, monkeypatch):
    def offline(repo_id, **arguments):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with refused("google/vit-tiny: no such folder, and the hub did not deliver it: no network"):
        hf_import.vision_params("google/vit-tiny", vision)
    with refused("./no/such/folder: no such folder, and not a hub id (expected a folder or owner/name)"):
        hf_import.vision_params("./no/such/folder", vision)


def typed(path, kind, size):
    """Write a safetensors file with four numbers of a type that NumPy may not have."""
    header = json.dumps({"a.weight": {"dtype": kind, "shape": [4], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x38" * size)
    return path


@pytest.mark.parametrize(
    ("kind", "size"), [("F8_E4M3", 4), ("F8_E5M2", 4), ("F8_E8M0", 4), ("F4", 2), ("F6_E2M3", 3), ("C64", 32)]
)
def test_a_type_that_is_not_read_is_named(tmp_path, kind, size):
    file = typed(tmp_path / "model.safetensors", kind, size)
    with refused(
        f"tensor a.weight has the type {kind}; read are F64, F32, F16, BF16, BOOL and integers of 8 to 64 bits"
    ):
        hf_import.read_tensors(file, tmp_path)


def test_double_precision_becomes_single(tmp_path):
    save_file({"a": np.full(3, 1 / 3)}, tmp_path / "a.safetensors")
    assert hf_import.read_tensors(tmp_path / "a.safetensors", tmp_path)["a"].dtype == np.float32


def test_weights_in_integers_are_refused(vit_folder, vision):
    name = next(name for name in vit_folder.tensors if name.endswith("query.weight"))
    vit_folder.tensors[name] = vit_folder.tensors[name].astype(np.int8)
    with refused(f"tensor {name} holds int8, expected floating point; save the model without quantisation"):
        hf_import.vision_params(vit_folder.write(), vision)
