"""The last word of a run, the table of exit codes, the account of seconds and the lock."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.workdir import broken_log, lock, log, outcome, provenance
from bridge_jax.workdir.lock import WorkdirBusyError
from bridge_jax.workdir.outcome import AbandonedError, Outcome, StoppedError, StorageError

ROOT = Path(__file__).resolve().parents[2]


def record(folder):
    return json.loads((folder / "outcome.json").read_text())


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (None, "finished", 0),
        (ZeroDivisionError("x"), "internal_error", 1),
        (FileNotFoundError(2, "x"), "internal_error", 1),
        (ConfigError("x"), "user_error", 2),
        (FloatingPointError("x"), "bad_numbers", 3),
        (WorkdirBusyError("x"), "workdir_busy", 4),
        (StorageError("x"), "storage", 5),
        (OSError(28, "No space left on device"), "storage", 5),
        (AbandonedError(signal.SIGTERM), "abandoned", 6),
        (StoppedError(signal.SIGINT), "stopped", 130),
        (KeyboardInterrupt(), "stopped", 130),
        (StoppedError(signal.SIGTERM), "stopped", 143),
    ],
)
def test_every_end_has_its_cause_and_code(error, name, code):
    cause = outcome.cause_of(error)
    assert (cause.name, cause.exit_code) == (name, code)
    assert cause.next


def test_the_page_has_the_same_table():
    text = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [(str(cause.exit_code), cause.name) for cause in outcome.CAUSES]
    assert len({cause.exit_code for cause in outcome.CAUSES}) == len(outcome.CAUSES)


def test_what_is_said_when_a_run_begins_and_ends(tmp_path):
    run = Outcome(tmp_path / "run")
    run.begin()
    begun = record(tmp_path / "run")
    run.stage, run.step = "align", 7
    run.secs |= {"train": 30.0, "compile": 10.0}
    (tmp_path / "run" / "checkpoints" / "6").mkdir(parents=True)
    with pytest.raises(FloatingPointError), run, run.spending("train"):
        raise FloatingPointError("step 8: nan")
    assert (begun["cause"], begun["exit_code"], begun["pid"], begun["step"]) == ("running", None, os.getpid(), 0)
    assert "killed without notice" in begun["next"]
    ended = record(tmp_path / "run")
    assert (ended["cause"], ended["exit_code"], ended["message"]) == ("bad_numbers", 3, "step 8: nan")
    assert (ended["stage"], ended["step"], ended["saved_step"], ended["doing"]) == ("align", 7, 6, "train")
    assert ended["goodput"] == pytest.approx(0.75, abs=0.02)
    assert shlex.split(ended["command"]) == sys.orig_argv
    assert not list((tmp_path / "run").glob("*.tmp"))


@pytest.mark.parametrize("error", [ConfigError("x"), WorkdirBusyError("x")])
def test_what_is_refused_before_it_begins_writes_nothing(tmp_path, error):
    with pytest.raises(type(error)), Outcome(tmp_path / "run"):
        raise error
    assert not (tmp_path / "run").exists()


def test_a_fault_before_it_begins_is_written(tmp_path):
    with pytest.raises(ZeroDivisionError), Outcome(tmp_path / "run"):
        raise ZeroDivisionError
    assert record(tmp_path / "run")["cause"] == "internal_error"


def test_a_finished_run_does_nothing_any_more(tmp_path):
    with Outcome(tmp_path) as run:
        run.begin()
        assert record(tmp_path)["doing"] == "start"
    assert (record(tmp_path)["cause"], record(tmp_path)["doing"]) == ("finished", "nothing")


def test_the_first_word_about_the_end_is_the_last(tmp_path):
    with Outcome(tmp_path) as run:
        run.begin()
        run.end(StoppedError(signal.SIGTERM))
    assert record(tmp_path)["cause"] == "stopped"


def test_every_second_is_booked_once_and_to_what_is_innermost(tmp_path):
    began = time.monotonic()
    with Outcome(tmp_path) as run:
        with run.spending("train"):
            time.sleep(0.1)
            with run.spending("save"):
                time.sleep(0.2)
            time.sleep(0.1)
        run.begin()
        elapsed = time.monotonic() - began
        shares = run.shares()
    assert shares["goodput/train_secs"] >= 0.2
    assert shares["goodput/save_secs"] >= 0.2
    assert sum(shares.values()) == pytest.approx(elapsed, abs=0.01)


def test_the_account_goes_on_over_restarts_and_knows_what_a_kill_cost(tmp_path):
    code = (
        "import os, sys, time; from bridge_jax.workdir.outcome import Outcome; "
        "run = Outcome(sys.argv[1]); run.begin(); "
        "run._book('train'); time.sleep(0.3); run.step = 5; run.write(); time.sleep(0.4); "
        "open(sys.argv[1] + '/metrics.jsonl', 'w').close(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == -signal.SIGKILL
    assert record(tmp_path)["cause"] == "running"
    time.sleep(0.5)
    with Outcome(tmp_path) as run:
        run.begin()
        found = record(tmp_path)
    assert (found["starts"], found["step"]) == (2, 5)
    for name, least in (("train", 0.3), ("lost", 0.4), ("down", 0.5)):
        assert least - 0.01 <= found["secs"][name] < least + 2
    assert run.shares().keys() == {f"goodput/{name}_secs" for name in ("start", "train", "lost", "down")}


NO_CAUSE = b'{"at": "2026-01-01T00:00:00+00:00", "secs": {}, "starts": 1, "step": 1, "stage": "align"}'


@pytest.mark.parametrize("content", [b"mine", bytes(900), b"\xff", b"{}", NO_CAUSE, b"[]", b"", None])
def test_an_outcome_that_cannot_be_read_is_set_aside_and_the_run_goes_on(tmp_path, caplog, content):
    """A machine that lost power may leave zeros. What is there is kept: it may be a foreign file, or a folder."""
    path = tmp_path / "outcome.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with Outcome(tmp_path) as run:
        run.begin()
        assert (record(tmp_path)["cause"], record(tmp_path)["starts"]) == ("running", 1)
    (aside,) = tmp_path.glob("outcome.json.damaged-*")
    assert aside.is_dir() if content is None else aside.read_bytes() == content
    assert "outcome.json: expected an outcome of bridge_jax" in caplog.text
    assert f"it is now {aside.name}" in caplog.text


def error_of(use, folder):
    try:
        use(folder)
    except Exception as error:
        return error


USES = {  # of a workdir -> whether they end where its files are folders, and where its folders are files
    "lock": (lock.take, True, False),
    "refuse": (lock.refuse_if_taken, False, False),
    "log": (lambda folder: log.RunLog(folder, 0).close(), True, False),  # a tracker that cannot begin is off
    "starts": (lambda folder: provenance.write(folder, 0, ""), True, False),
    "broken": (lambda folder: broken_log.BrokenLog(folder, 0, (), 0.0), True, True),
    "workdir": (lambda folder: Outcome(folder / "lock").begin(), False, True),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("files", [False, True])
def test_a_folder_or_a_file_in_the_place_of_the_other_is_one_line(tmp_path, name, files):
    use, *ends = USES[name]
    for own in ("lock", "metrics.jsonl", "starts.jsonl", "broken_data.jsonl", "tensorboard"):
        (tmp_path / own).write_bytes(bytes(100)) if files else (tmp_path / own).mkdir()
    error = error_of(use, tmp_path)
    assert (error is not None) == ends[files], repr(error)
    if error is not None:
        assert outcome.cause_of(error) is outcome.USER, repr(error)
        assert str(tmp_path) in outcome.last_line(error)
        assert "\n" not in outcome.last_line(error)


def test_two_processes_cannot_hold_one_workdir_and_a_killed_one_holds_nothing(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from bridge_jax.workdir import lock; "
        "lock.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        says = rf"in use by process {holder.pid} on \S+ since \d+-\d\d-\d\dT.*: wait for it or end it, or give another"
        for refused in (lock.take, lock.refuse_if_taken):
            with pytest.raises(WorkdirBusyError, match=says):
                refused(tmp_path)
        with pytest.raises(WorkdirBusyError), Outcome(tmp_path) as run:
            run.begin()
        assert not (tmp_path / "outcome.json").exists()
        holder.kill()
        holder.wait()
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.refuse_if_taken(tmp_path)
