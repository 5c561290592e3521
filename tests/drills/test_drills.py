"""A run that is killed and stopped over and over ends as if it never was: parameters, log and order of examples.

    DRILL_KILLS=200 DRILL_STOPS=40 python -m pytest tests/drills/test_drills.py -s

is the long form. Every disturbed process is a real one, every signal a real one.
"""

import collections
import itertools
import json
import os
import random
import signal
import subprocess
import time

import pytest

from bridge_jax.workdir import manifest
from tests.drills.conftest import ANEW, drawn
from tests.runs import assert_same

UNPICKLED_ON_PURPOSE = {"unpickled pathlib PosixPath"}  # child.py does, so that the hook is seen to see
KILLS, STOPS = int(os.environ.get("DRILL_KILLS", "5")), int(os.environ.get("DRILL_STOPS", "9"))
WINDOWS = (  # phase, how often it is entered before the signal, spread of the signal in seconds, what hangs
    ("import", 1, 1.5, ""),
    ("compile", 1, 1.0, ""),
    ("train", 2, 0.0, ""),  # right after the first compilation: the first step
    ("data", 3, 0.1, ""),
    ("save", 1, 0.3, ""),
    ("evaluate", 1, 0.5, ""),
    ("stalled", 1, 0.5, "data"),
    ("evaluate", 3, 0.5, ""),
    ("compile", 2, 1.0, ""),
)


@pytest.fixture(scope="module")
def seconds(start, tmp_path_factory) -> float:
    """Return how long an undisturbed run takes once its programs are compiled."""
    began = time.monotonic()
    assert start(tmp_path_factory.mktemp("timed") / "run").end() == 0
    return time.monotonic() - began


def assert_every_checkpoint_is_whole(workdir):
    folder = workdir / manifest.CHECKPOINTS
    assert {step: manifest.fault(folder / str(step)) for step in manifest.committed(folder)} == dict.fromkeys(
        manifest.committed(folder), ""
    )


def assert_ended_as(run, whole):
    """Compare a finished run with the undisturbed one."""
    assert_same(run.workdir, whole.workdir)
    expected = drawn(whole.workdir)
    actual = drawn(run.workdir)
    consumed = [key for key in expected if int(key.split()[1]) < 4]  # what is read ahead differs
    assert {key: actual[key] for key in consumed} == {key: expected[key] for key in consumed}
    assert "damaged" not in run.stderr.read_text()


def test_a_run_unpickles_nothing(whole):
    """Loading a pickle runs code that its writer chose."""
    assert {line for line in whole.lines() if line.startswith("unpickled")} == UNPICKLED_ON_PURPOSE


def test_kills(start, whole, seconds, tmp_path):
    draw, killed = random.Random(0), collections.Counter()
    runs = 0
    while killed.total() < KILLS:
        workdir, finished = tmp_path / f"run{runs}", False
        while not finished:
            run = start(workdir)
            try:
                code = run.process.wait(draw.uniform(0, seconds) if killed.total() < KILLS else 300)
                assert code == 0, run.stderr.read_text()
                finished = True
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
                killed[next((line for line in reversed(run.lines()) if not line.startswith("batch")), "python")] += 1
                assert_every_checkpoint_is_whole(workdir)
        assert_ended_as(run, whole)
        runs += 1
    print(f"{killed.total()} kills of {runs} runs: {dict(killed)}")


def test_stops(start, whole, tmp_path):
    draw, stopped, noticed = random.Random(1), collections.Counter(), []
    windows, workdirs = itertools.cycle(WINDOWS), itertools.count()
    workdir = tmp_path / f"run{next(workdirs)}"
    while stopped.total() < STOPS:
        phase, times, spread, stall = next(windows)
        run = start(workdir, stall, ANEW if phase == "import" else ())
        if run.reaches(phase, times):
            time.sleep(draw.uniform(0, spread))
        signum = signal.SIGINT if stopped.total() % 4 == 3 else signal.SIGTERM
        run.process.send_signal(signum)
        if run.process.poll() is None:
            noticed.append(run.seconds_until_printed("stopping; a second signal ends the run at once"))
        code, outcome = run.end(), json.loads((workdir / "outcome.json").read_text())
        if outcome["cause"] == "finished":
            assert_ended_as(run, whole)
            workdir = tmp_path / f"run{next(workdirs)}"
            continue
        assert (code, outcome["exit_code"], outcome["cause"]) == (128 + signum, 128 + signum, "stopped")
        assert outcome["saved_step"] == outcome["step"], "more than the step in flight was lost"
        assert_every_checkpoint_is_whole(workdir)
        stopped[f"{phase} {times}"] += 1
    run = start(workdir)
    assert run.end() == 0, run.stderr.read_text()
    assert_ended_as(run, whole)
    print(f"{stopped.total()} stops: {dict(stopped)}; noticed after {max(noticed):.3f} s at most")
    assert max(noticed) < 1
