"""tools/ablate.py: a real grid of two rows, a child of it killed in the middle; what is listed and refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.run import distributed
from bridge_jax.step import leak_probe, sharding
from bridge_jax.step.params import param_shapes
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import lock
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process
from tools.ablation import cell, run
from tools.ablation.rows import rows

ROOT = Path(__file__).resolve().parents[2]
UNPROBED = (
    "import runpy; from bridge_jax.step import leak_probe; leak_probe.probe = lambda cfg: {}; "
    "runpy.run_module('tools.ablate', None, '__main__')"
)
FILE = "import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({!r})\n"


@pytest.fixture(scope="module")
def settings(tiny):
    """The tiny experiment in two stages, the second long enough to be killed in."""
    config = tiny()
    config.stage_order = ("stabilise", "align")
    config.stages.align.update(steps=40, losses=("fused_itc", "itm"))
    config.checkpoint.every_steps = 20
    config.evals.retrieval.splits = ("val", "val_relations")
    return config


@pytest.fixture(scope="module")
def file(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(FILE.format(settings.to_dict()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def every(settings):
    return cell.cells(rows(settings, "leak"), [0, 1, 2])


def killed_in_the_middle(file: Path, out: Path) -> int:
    """Start the first cell as a user does, kill it after a checkpoint of its second stage, and return its exit code."""
    command = [sys.executable, "-c", UNPROBED]
    flags = [f"--config={file}", "--grid=leak", f"--out={out}", "--cell=0"]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        while not list(out.glob("workdirs/*/checkpoints/20")):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        child.kill()
    return 128 - child.returncode


@pytest.fixture(scope="module")
def grid(settings, file, every, tmp_path_factory):
    """A grid whose first cell was killed: what the first run left, then the second run's cells, in folder `out`."""
    out, started = tmp_path_factory.mktemp("grid"), []

    def start(index):
        started.append(index)
        if started == [0]:
            return killed_in_the_middle(file, out)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leak_probe, "STEPS", 2)
            if every[index].row.name == "joint":  # one probe shows that a cell has it
                patch.setattr(leak_probe, "probe", lambda cfg: {"unimodal": leak_probe.Count(16, 4, 32)})
            run.one(every[index], out, "leak", keep_workdir=True)
        return 0

    first = run.every_cell(every[:2], out, start)
    left = sorted(path.stem for path in (out / "cells").iterdir())
    second = run.every_cell(every[:2], out, start)
    return out, (first, left, second), started


def records(grid, every):
    return [cell.read(cell.path_of(grid[0], each)) for each in every[:2]]


def test_a_killed_grid_goes_on_and_runs_no_cell_twice(grid, every):
    out, (first, left, second), started = grid
    assert first == 128 + signal.SIGKILL
    assert left == [every[1].name]  # the other row was run all the same
    assert second == 0
    assert started == [0, 1, 0]
    outcome = json.loads(next(out.glob(f"workdirs/{every[0].name}-*/outcome.json")).read_text())
    assert (outcome["starts"], outcome["step"]) == (2, 44)


def test_a_cell_has_all_that_it_takes_to_judge_it(grid, every):
    """Its recalls are those that the evaluator gives for the last checkpoint."""
    out = grid[0]
    for each, record in zip(every[:2], records(grid, every), strict=True):
        assert record["pairs"] == 8 * 44
        assert record["code"] == distributed.code()
        assert record["parameters_beyond_towers"] == each.row.parameters
        assert {"train", "compile", "probe", "score"} <= record["seconds"].keys()
        names = ["unimodal", "similarity", "match", "published"] if each.row.name == "paper" else ["unimodal"]
        assert list(record["leak_probe"]) == names
        assert set(record["leak_probe"]["unimodal"]) == {"hits", "low", "high"}
        assert record["config"]["losses"]["fused_itc"]["form"] == each.row.name
        (workdir,) = out.glob(f"workdirs/{each.name}-*")
        params = Checkpoints(workdir, read_only=True).restore_params(44, param_shapes(each.cfg))
        evaluator = Evaluator(each.cfg, build_predict(each.cfg, sharding.make_mesh(each.cfg.mesh)))
        assert evaluator.fit(params, lambda *_: None) == {"rerank_weight": record["splits"]["val"]["rerank_weight"]}
        for split, found in record["splits"].items():
            expected = evaluator.run(params, split, rerank=True)
            for name, ranks in found["ranks"].items():
                photos = found["photo_of_query"][name.split("/")[1]]
                assert found["recalls"][name]["r@5"] == pytest.approx(expected[f"{name}/r@5"])
                assert found["recalls"][name]["r@5"] == pytest.approx(100 * np.mean(np.array(ranks) <= 5))
                assert len(ranks) == len(photos)
                assert len(np.unique(photos)) == found["photos"] == 16
            assert len(found["ranks"]) == 4
    assert cell.path_of(out, every[0]).read_text().count("\n") < 700  # a list of ranks is one line


def program(file, *flags):
    return process.run("tools.ablate", f"--config={file}", *flags)


def test_dry_run_lists_the_cells(grid, every, file):
    done = program(file, "--grid=leak", f"--out={grid[0]}", "--dry_run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("  1  joint, seed 0: 0.")
    assert lines[4] == f"  4  paper, seed 2: missing ({every[4].name})"
    assert lines[-2] == "6 cells: 2 rows, and 4 more of the method and its rival"
    secs = [cell.total_secs(record) for record in records(grid, every)]
    assert lines[-1].startswith(f"4 are missing: about {4 * np.mean(secs) / 3600:.1f} hours")


@pytest.mark.parametrize("key", ["code", "data"])
def test_a_grid_does_not_go_on_with_cells_of_other_code_or_data(grid, every, tmp_path, key):
    run.check(every, grid[0], "leak")
    (tmp_path / "cells").mkdir()
    for each, record in zip(every[:2], records(grid, every), strict=True):
        cell.path_of(tmp_path, each).write_text(json.dumps(record | {key: "0123"}))
    with pytest.raises(ConfigError) as error:
        run.check(every, tmp_path, "leak")
    assert str(error.value).startswith(f"{cell.path_of(tmp_path, every[0])} was made from other {key} (0123, commit ")
    assert len(list((tmp_path / "cells").iterdir())) == 2
    run.write(every, tmp_path, "leak", "configs/tiny.py")  # they are of one kind, so they can still be judged


def test_a_split_with_too_few_photos_for_a_row_is_refused_before_any_cell_runs(settings, tmp_path):
    every = cell.cells(rows(settings, "mining"), [0])
    with pytest.raises(ConfigError, match=r"--grid=mining, row 'the whole split': config.mining.ranks ends at 32, but"):
        run.check(every, tmp_path, "mining")


def test_a_row_without_a_bridge_that_is_to_rerank_is_one_line_and_exit_code_2(file, tmp_path):
    done = program(file, "--grid=design", f"--out={tmp_path}", "--config.evals.retrieval.select_by=rerank")
    assert done.returncode == 2
    assert "error: --grid=design, row 'none': config.evals.retrieval.select_by is 'rerank'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--grid=desing"], "--grid: 'desing' is unknown; nearest: 'design'"),
        (["--grid=leak", "--seeds=a"], "--seeds is 'a'; expected numbers, such as 0,1,2"),
    ],
)
def test_wrong_flags_are_one_line(file, tmp_path, flags, says):
    done = program(file, f"--out={tmp_path}", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_one_line(file, tmp_path):
    (tmp_path / "statsmodels").mkdir()
    (tmp_path / "statsmodels/__init__.py").write_text("raise ModuleNotFoundError(name='statsmodels')")
    command = [sys.executable, "-m", "tools.ablate", f"--config={file}", "--grid=leak", "--dry_run"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: statsmodels is missing: pip install 'bridge_jax[ablate]'\n"


def test_a_child_gets_the_flags_and_a_stop(monkeypatch, tmp_path):
    """The child is a script that writes its words and, when it is told to stop, ends by a code of its own."""
    script = tmp_path / "python"
    loop = "while true; do sleep 0.01; done"
    script.write_text(f'#!/bin/bash\ntrap "exit 3" TERM\necho "$@" > {tmp_path}/words\n{loop}\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(sys, "argv", ["ablate", "--grid=leak"])

    def stop():
        while not (tmp_path / "words").exists() or not (tmp_path / "words").read_text().endswith("\n"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert run.child(5) == 143
    assert (tmp_path / "words").read_text() == "-m tools.ablate --grid=leak --cell=5\n"


def test_two_processes_do_not_run_one_cell(every, tmp_path, monkeypatch):
    monkeypatch.setattr(leak_probe, "STEPS", 2)
    workdir = cell.workdir_of(tmp_path, every[0])
    with lock.hold(workdir), pytest.raises(lock.WorkdirBusyError):
        run.one(every[0], tmp_path, "leak", keep_workdir=True)
