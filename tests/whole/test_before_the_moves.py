"""Runs of the code before its files moved into rooms: read, gone on with and exported folders taken back, all the same.

tests/golden/before_the_moves/make.py made them, and says how. What is only read is compared bit for bit. What is
computed anew is compared within TOLERANCE: on the machine that made the runs all of it is equal bit for bit, but
another processor rounds otherwise. Compiled with --xla_cpu_max_isa=AVX, without fused multiply-add, 5 of the log's
440 numbers differ, by a relative 1.1e-7 at most, and no parameter by more than 1e-9. A wrong step of Adam moves a
parameter by its rate, 1e-3: ten tolerances.
"""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import Config
from bridge_jax.config.as_json import as_dict
from bridge_jax.data import shapes
from bridge_jax.interop import torch_import
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process, runs

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "tests" / "golden" / "before_the_moves" / "runs.tar.xz"
LAST = 12
TOLERANCE = 1e-4  # relative, or absolute where that is more


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of what the code before made."""
    folder = tmp_path_factory.mktemp("made")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def shapes_2_1(tmp_path_factory) -> Path:
    """The small shapes set as it was then: version 2.1.0, which held no twins out of `train`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "BINDING_SPLITS", ())
        return runs.prepare_small_shapes(tmp_path_factory.mktemp("shapes_2_1"))


@pytest.fixture(scope="module")
def expected(made) -> dict:
    """The step of the stopped run, its metrics, and a hash of every parameter there and at the end."""
    return json.loads((made / "expected.json").read_text())


@pytest.fixture(scope="module")
def end(made) -> dict[str, np.ndarray]:
    """The last parameters of the run that never stopped, by path, as its export holds them."""
    return paths.flatten(torch_import.read(made / "exported")[2])


def command(module: str, *arguments: str) -> None:
    done = process.run(module, *arguments)
    assert done.returncode == 0, done.stderr


def hashes(parameters: dict) -> dict[str, str]:
    return {path: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()[:16] for path, leaf in parameters.items()}


def config_of(workdir: Path, step: int) -> Config:
    return Checkpoints(workdir, read_only=True).config(step)


def test_a_checkpoint_is_read_bit_for_bit(made, expected):
    step = expected["step"]
    restored = runs.parameters(made / "stopped", config_of(made / "stopped", step), step)
    assert hashes(restored) == expected["parameters"]["stopped"]


def test_an_exported_folder_becomes_a_checkpoint_bit_for_bit(made, expected, end, tmp_path):
    assert hashes(end) == expected["parameters"]["finished"]
    command("tools.import_hf", str(made / "exported"), f"--workdir={tmp_path / 'back'}")
    restored = runs.parameters(tmp_path / "back", config_of(tmp_path / "back", LAST), LAST)
    assert hashes(restored) == expected["parameters"]["finished"]


def test_an_evaluation_gives_the_same_metrics(made, expected, shapes_2_1, tmp_path):
    where = (f"--workdir={made / 'stopped'}", f"--data_dir={shapes_2_1}", f"--json={tmp_path / 'evaluated.json'}")
    command("tools.evaluate", *where, "--split=test", "--rerank")
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    assert evaluated["step"] == expected["step"]
    assert evaluated["metrics"] == pytest.approx(expected["metrics"], rel=TOLERANCE, abs=TOLERANCE)


def test_a_stopped_run_goes_on_and_ends_the_same(made, expected, shapes_2_1, tiny, end, tmp_path):
    """The command is given the config that the checkpoint holds, with the data and the cache of this machine."""
    workdir = shutil.copytree(made / "stopped", tmp_path / "run")
    settings = as_dict(config_of(workdir, expected["step"]))
    settings["data"]["data_dir"], settings["cache_dir"] = str(shapes_2_1), tiny().cache_dir
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "experiment.py").write_text(
        "import json, ml_collections, pathlib\n"
        "def get_config():\n"
        "    settings = pathlib.Path(__file__).with_name('settings.json').read_text()\n"
        "    return ml_collections.ConfigDict(json.loads(settings))\n"
    )
    command("bridge_jax.main", f"--config={tmp_path / 'experiment.py'}", f"--workdir={workdir}")
    log, whole = runs.logged(workdir), runs.logged(made / "finished")
    assert log == pytest.approx(whole, rel=TOLERANCE, abs=TOLERANCE)
    parameters = runs.parameters(workdir, config_of(workdir, LAST), LAST)
    assert parameters.keys() == end.keys()
    for path, value in end.items():
        np.testing.assert_allclose(parameters[path], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=path)
