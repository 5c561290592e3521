"""tools/checkpoints.py on real checkpoints, a process each, as users do."""

import os
import re
import shutil

import jax.numpy as jnp
import pytest

from bridge_jax import config
from bridge_jax.workdir import lock
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process

LIKE = {"vision": {"kernel": jnp.zeros(100)}, "heads": {"kernel": jnp.zeros(10)}}


def run(*arguments):
    return process.run("tools.checkpoints", *arguments)


@pytest.fixture
def workdir(tiny, tmp_path):
    """Checkpoints 1 (the best) to 4 with a frozen tower; 3 is damaged."""
    cfg, saves = config.parse(tiny()), Checkpoints(tmp_path / "run", 10, frozen={"vision/kernel"})
    for step, rsum in ((1, 90.0), (2, 80.0), (3, 70.0), (4, None)):
        params = {"vision": {"kernel": jnp.arange(100.0)}, "heads": {"kernel": jnp.full(10, step, jnp.float32)}}
        saves.save(step, "stabilise", params, {"count": jnp.int32(step)}, cfg)
        if rsum is not None:
            saves.score(step, {"stage_index": 0.0, "unimodal_rsum": rsum})
    saves.close()
    shutil.rmtree(saves.folder / "3" / "opt_state")
    return tmp_path / "run"


def test_list_shows_every_checkpoint(workdir):
    done = run("list", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("1", "stabilise", "90.0"), ("2", "stabilise", "80.0"), ("3", "", ""), ("4", "stabilise", "")
    ]  # fmt: skip
    assert [row[4] for row in rows] == ["whole, best", "whole", "damaged", "whole"]
    assert re.search(r"^3 is damaged: opt_state/\S+ is missing$", done.stdout, re.M)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[5]) for row in rows)
    assert re.search(r"^and 0.0 MiB of frozen parameters, shared by all checkpoints$", done.stdout, re.M)


def test_verify_names_what_is_damaged(workdir):
    done = run("verify", f"--workdir={workdir}")
    assert done.returncode == 5
    assert [line.split(": ")[:2] for line in done.stdout.splitlines()][::3] == [["1", "whole"], ["4", "whole"]]
    assert "\n3: opt_state/" in done.stdout
    assert done.stderr == f"error: {workdir}/checkpoints: 1 of 4 checkpoints are damaged: 3\n"
    assert run("verify", f"--workdir={workdir}", "--step=best").stdout == "1: whole\n"


def test_prune_keeps_the_newest_and_the_best(workdir):
    done = run("prune", f"--workdir={workdir}", "--keep_last=1")
    assert (done.returncode, done.stdout) == (0, "2: removed\n3: removed\n")
    assert Checkpoints(workdir, read_only=True).steps() == [1, 4]
    assert run("verify", f"--workdir={workdir}").returncode == 0


def test_prune_keeps_out_of_a_run_that_is_going_on(workdir):
    with lock.hold(workdir):
        done = run("prune", f"--workdir={workdir}")
    assert done.returncode == 4
    assert f"is in use by process {os.getpid()} on " in done.stderr
    assert Checkpoints(workdir, read_only=True).steps() == [1, 2, 3, 4]


def test_copy_makes_a_workdir_with_the_same_parameters(workdir, tmp_path):
    for step in ("best", "4"):
        assert run("copy", f"--workdir={workdir}", f"--step={step}", f"--to={tmp_path / 'to'}").returncode == 0
    shutil.rmtree(workdir)
    saves = Checkpoints(tmp_path / "to", read_only=True)
    assert (saves.steps(), saves.best()) == ([1, 4], 1)
    params = saves.restore_params(4, LIKE)
    assert params["heads"]["kernel"].tolist() == [4.0] * 10
    assert params["vision"]["kernel"].tolist() == list(range(100))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["lst"], 2, "expected a command before the flags, got 'lst'; nearest: 'list'"),
        ([], 2, "expected a command before the flags, got ''"),
        (["copy", "--step=7", "--to=TO"], 2, "no checkpoint '7' in "),
        (["copy", "--step=3", "--to=TO"], 5, "/3 is damaged: opt_state/"),
        (["copy"], 2, "--to is missing"),
        (["copy", "--step=4", "--to=WORKDIR"], 2, "exists already; give another folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(workdir, tmp_path, arguments, code, says):
    words = [word.replace("TO", str(tmp_path / "to")).replace("WORKDIR", str(workdir)) for word in arguments]
    done = run(*words, f"--workdir={workdir}")
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
