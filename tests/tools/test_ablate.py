"""tools/ablate.py: a real grid of two rows, a child of it killed in the middle; what is listed, judged, refused."""

import copy
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
from tools.ablation import cell, judge, page, run
from tools.ablation.rows import rows

ROOT = Path(__file__).resolve().parents[2]
QUICK = "from bridge_jax.step import leak_probe; leak_probe.STEPS = 2; import runpy; runpy.run_module({!r}, None, {!r})"
FILE = "import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({!r})\n"


@pytest.fixture(scope="module")
def settings(tiny):
    """The tiny experiment in two stages, the second long enough to be killed in."""
    config = tiny()
    config.stage_order = ("stabilise", "align")
    config.stages.align.update(steps=60, losses=("fused_itc", "itm"))
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
    command = [sys.executable, "-c", QUICK.format("tools.ablate", "__main__")]
    flags = [f"--config={file}", "--grid=leak", f"--out={out}", "--cell=0"]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL) as child:
        while not list(out.glob("work/*/checkpoints/20")):
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
        run.one(every[index], out, "leak", keep_workdir=True)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leak_probe, "STEPS", 2)
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
    outcome = json.loads(next(out.glob(f"work/{every[0].name}-*/outcome.json")).read_text())
    assert (outcome["starts"], outcome["step"]) == (2, 64)


def test_a_cell_has_all_that_it_takes_to_judge_it(grid, every):
    """Its recalls are those that the evaluator gives for the last checkpoint."""
    out = grid[0]
    for each, record in zip(every[:2], records(grid, every), strict=True):
        assert record["pairs"] == 8 * 64
        assert record["code"] == distributed.code()
        assert record["parameters_beyond_towers"] == each.row.parameters
        assert {"train", "compile", "probe", "score"} <= record["seconds"].keys()
        assert set(record["leak_probe"]["similarity"]) == {"hits", "low", "high"}
        assert ("published" in record["leak_probe"]) == (each.row.name == "paper")
        assert record["config"]["losses"]["fused_itc"]["form"] == each.row.name
        (workdir,) = out.glob(f"work/{each.name}-*")
        params = Checkpoints(workdir, read_only=True).restore_params(64, param_shapes(each.cfg))
        evaluator = Evaluator(each.cfg, build_predict(each.cfg, sharding.make_mesh(each.cfg.mesh)))
        for split, found in record["splits"].items():
            expected = evaluator.run(params, split, rerank=False)
            for direction in ("text_to_image", "image_to_text"):
                name = f"unimodal/{direction}"
                assert found["recalls"][name]["r@5"] == pytest.approx(expected[f"{name}/r@5"])
                ranks, photos = np.array(found["ranks"][name]), np.array(found["photo_of_query"][direction])
                assert found["recalls"][name]["r@5"] == pytest.approx(100 * np.mean(ranks <= 5))
                assert len(ranks) == len(photos)
                assert len(np.unique(photos)) == found["photos"] == 16
    assert cell.path_of(out, every[0]).read_text().count("\n") < 700  # a list of ranks is one line


@pytest.fixture
def judged(grid, every, tmp_path):
    """Three seeds of both rows; the seeds after the first are copies whose ranks are better or worse."""
    draw = np.random.default_rng(0)
    (tmp_path / "cells").mkdir()
    templates = records(grid, every)
    for each in every:
        record = copy.deepcopy(templates[0 if each.row.name == "paper" else 1])
        record.update(name=each.name, seed=each.seed)
        for split in record["splits"].values():
            for name, ranks in split["ranks"].items():
                share = {"joint": 0.95, "paper": 0.05}[each.row.name] if name.startswith("rerank") else 0.5
                split["ranks"][name] = np.where(draw.random(len(ranks)) < share, 1, 2).tolist()
                split["recalls"][name]["r@1"] = 100.0 * float(np.mean(np.array(split["ranks"][name]) == 1))
        cell.path_of(tmp_path, each).write_text(json.dumps(record))
    return tmp_path


def test_a_grid_is_judged(judged, every):
    returned = run.write(every, judged, "leak", "configs/tiny.py")
    found = json.loads((judged / "leak.json").read_text())
    text = (judged / "leak.md").read_text()
    assert text == returned
    assert len(found["verdicts"]) == 2 * 2 * 2  # splits, scores, directions
    for line in found["verdicts"]:
        assert line["seeds"] == [0, 1, 2]
        assert line["claim"] == "joint is better than paper"
        decided = line["score"] == "final"
        assert line["verdict"] == ("confirmed" if decided else "undecided at 3 seeds"), line
        assert (line["wanted"] is None) == decided
    rows = text.split("## R@1 on val\n")[1].splitlines()
    assert rows[3].startswith("| SD over seeds of joint |")
    assert [line.split(" | ")[0] for line in rows[4:6]] == ["| paper", "| joint"]
    sd = found["table"][2]["sd"]["rerank/text_to_image"]
    cells = [cell.read(cell.path_of(judged, each)) for each in every if each.row.name == "joint"]
    values = [each["splits"]["val"]["recalls"]["rerank/text_to_image"]["r@1"] for each in cells]
    assert sd == pytest.approx(np.std(values, ddof=1), abs=1e-3)


def test_the_claim_is_refuted_where_the_rival_is_better(judged, every):
    swapped = [each._replace(row=every[1 - i % 2].row) for i, each in enumerate(every)]
    swapped = [each for pair in zip(swapped[1::2], swapped[::2], strict=True) for each in pair]
    found = judge.verdicts(judge.gather(swapped, judged), [every[0].row, every[1].row])
    assert {line["verdict"] for line in found if line["score"] == "final"} == {"refuted"}


def test_the_page_says_what_is_missing_and_marks_a_leak(grid, every):
    """One seed of each row: nothing is decided, and every claim says what it would take."""
    out = grid[0]
    ordered = [each.row for each in every[:2]]
    gathered = judge.gather(every, out)
    gathered["paper"][0]["leak_probe"]["published"] = {"hits": 1000, "low": 3, "high": 30}
    text = page.markdown(judge.summary("leak", "configs/tiny.py", gathered, ordered))
    assert "**1000 (3 to 30)**" in text
    assert text.count("undecided at 1 seed") == 8
    assert text.count("3 seeds (") == 8
    assert "| SD over seeds of joint |  |  |  | - | - | - | - |" in text


def test_the_first_seed_is_run_for_all_rows_and_the_others_for_two(judged, every, tmp_path):
    """The nearest rival is the row with the best final recall of the first seed."""
    out, ran = tmp_path / "other", []
    (out / "cells").mkdir(parents=True)
    named = [every[0].row._replace(name=name) for name in ("far", "near", "method")]
    cells = [cell.Cell(row, seed, every[0].cfg, f"{row.name}{seed}") for seed in (0, 1) for row in named]

    def start(index):
        ran.append(cells[index].name)
        record = cell.read(cell.path_of(judged, every[0])) | {"name": cells[index].name}
        for split in record["splits"].values():
            for recalls in split["recalls"].values():
                recalls["r@1"] = {"far": 10.0, "near": 20.0, "method": 5.0}[cells[index].row.name]
        cell.path_of(out, cells[index]).write_text(json.dumps(record))
        return 0

    assert run.every_cell(cells, out, start) == 0
    assert ran == ["far0", "near0", "method0", "near1", "method1"]
    assert run.every_cell(cells, out, start) == 0
    assert len(ran) == 5


@pytest.mark.parametrize(("code", "ran"), [(2, [0]), (143, [0]), (3, [0, 1]), (137, [0, 1])])
def test_after_a_stop_or_a_users_error_no_other_cell_is_begun(every, tmp_path, code, ran):
    started = []

    def start(index):
        started.append(index)
        return code if index == 0 else 0

    assert run.every_cell(every, tmp_path, start) == code
    assert started == ran


@pytest.mark.parametrize(("key", "value"), [("code", "0123"), ("data", "4567"), ("pairs", 9)])
def test_cells_that_cannot_be_compared_are_refused(judged, every, key, value):
    path = cell.path_of(judged, every[3])
    path.write_text(json.dumps(cell.read(path) | {key: value}))
    with pytest.raises(ConfigError) as error:
        run.write(every, judged, "leak", "configs/tiny.py")
    message = str(error.value)
    assert str(path) in message
    assert str(cell.path_of(judged, every[0])) in message
    assert "so they cannot be compared: move one away" in message
    assert not (judged / "leak.md").exists()
    assert path.exists()


def test_a_file_that_is_no_cell_is_refused(judged, every, tmp_path):
    with pytest.raises(ConfigError, match="no cell of --grid=leak is in .*: run the grid first"):
        run.write(every, tmp_path / "empty", "leak", "configs/tiny.py")
    path = cell.path_of(judged, every[0])
    for text, says in (("{", "Expecting property name"), ('{"name": "x"}', "it lacks code"), ("[]", "it lacks name")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"expected a cell of tools.ablate .{says}"):
            cell.read(path)
    cell.path_of(judged, every[1]).rename(path)
    with pytest.raises(ConfigError, match=f"it is the cell {every[1].name}"):
        cell.read(path)


def program(file, *flags):
    command = [sys.executable, "-m", "tools.ablate", f"--config={file}", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_dry_run_lists_the_cells(judged, every, file):
    cell.path_of(judged, every[4]).unlink()
    done = program(file, "--grid=leak", f"--out={judged}", "--dry_run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("  0  paper, seed 0: ")
    assert lines[4] == f"  4  paper, seed 2: missing ({every[4].name})"
    assert lines[-2] == "6 cells: 2 rows, and 4 more of the method and its rival"
    assert lines[-1].startswith("1 are missing: about 0.0 hours")


def test_a_cell_of_other_code_is_one_line_and_exit_code_2(judged, every, file):
    for each in every:
        path = cell.path_of(judged, each)
        path.write_text(json.dumps(cell.read(path) | {"code": "0123"}))
    done = program(file, "--grid=leak", f"--out={judged}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {cell.path_of(judged, every[0])} was made from other code (0123, commit ")
    assert done.stderr.count("\n") == 1
    assert len(list((judged / "cells").iterdir())) == 6


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
        (["--grid=leak", "--cell=6"], "--cell is 6; this grid has the cells 0 to 5"),
    ],
)
def test_wrong_flags_are_one_line(file, tmp_path, flags, says):
    done = program(file, f"--out={tmp_path}", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


def test_a_child_gets_the_flags_and_a_stop(monkeypatch, tmp_path):
    """The child is a script that ends when it is told to, and writes its words."""
    script = tmp_path / "python"
    loop = "while true; do sleep 0.01; done"
    script.write_text(f'#!/bin/bash\ntrap "exit 143" TERM\necho "$@" > {tmp_path}/words\n{loop}\n')
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
