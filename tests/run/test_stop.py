"""Signals and the watchdog, tested in small processes; tests/drills tests them in whole runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge_jax.run.stop import Stop
from bridge_jax.workdir.outcome import Outcome

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, threading, time
from pathlib import Path
from bridge_jax.run import command_line
from bridge_jax.workdir.outcome import Outcome
from bridge_jax.run.stop import Stop

folder = Path(sys.argv[1])
def say(text):
    print(text, flush=True)
def main(argv):
    with Outcome(folder) as outcome, Stop(outcome) as stop:
        outcome.begin()
{body}
command_line.run(main, positional=1)
"""
BODIES = {
    "blocked": "say('ready'); threading.Event().wait()",
    "in_c": "import hashlib; say('ready'); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "busy": """
        with stop.keeping():
            for step in range(1000):
                with stop.busy():
                    stop.keep(None)
                    time.sleep(0.2)
                    outcome.step = step + 1
                    if not step: say('ready')
                    stop.keep(lambda: (folder / 'saved').write_text(str(outcome.step)))
""",
    "stuck_saving": """
        with stop.keeping():
            with stop.busy():
                stop.keep(lambda: time.sleep(60))
            say('ready')
            threading.Event().wait()
""",
    "failing_to_save": """
        def fail():
            raise OSError(28, 'No space left on device')
        with stop.keeping():
            with stop.busy():
                stop.keep(fail)
            say('ready')
            threading.Event().wait()
""",
    "alone": """
        from bridge_jax.run import stop as module
        module._AGREE_SECS = 1.0
        with stop.keeping():
            stop.multihost = True
            for step in range(4):
                with stop.busy():
                    stop.alive()
                if not step: say('ready')
                time.sleep(0.5)
            threading.Event().wait()
""",
    "together": """
        with stop.keeping():
            stop.multihost = True
            say('ready')
            while not stop.signal:
                time.sleep(0.01)
            with stop.busy():
                stop.agree(stop.signal)
                time.sleep(0.5)
                (folder / 'saved').touch()
            stop.wait_for_the_end()
""",
    "told_by_another": """
        with stop.keeping():
            stop.multihost = True
            say('ready')
            with stop.busy():
                stop.agree(15)
            stop.wait_for_the_end()
""",
    "over_before_all_knew": """
        stop.multihost = True
        say('ready')
        time.sleep(1)
""",
    "swallowing": """
        while True:
            try:
                say('ready')
                threading.Event().wait()
            except BaseException:
                pass
""",
}


@pytest.fixture
def start(tmp_path):
    """Start a program, start(body), and wait until it says that it is ready."""
    started = []

    def run(body):
        indented = BODIES[body] if BODIES[body].startswith("\n") else " " * 8 + BODIES[body]
        command = [sys.executable, "-c", PROGRAM.format(body=indented), str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        with process:
            process.kill()


def ends(process, within):
    """Wait at most so many seconds for the process to end. Return its exit code and stderr."""
    errors = process.communicate(timeout=within)[1]
    return process.returncode, errors


def outcome(folder):
    record = json.loads((folder / "outcome.json").read_text())
    return record["cause"], record["exit_code"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_program_that_waits_is_stopped_at_once(start, tmp_path, signum, code):
    process = start("blocked")
    process.send_signal(signum)
    exit_code, errors = ends(process, 10)
    assert exit_code == code
    assert errors.endswith(f"\nstopped by {signum.name}; nothing is lost, the same command resumes\n")
    assert outcome(tmp_path) == ("stopped", code)


def test_what_changes_the_state_is_let_finish_and_then_saved(start, tmp_path):
    process = start("busy")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert ends(process, 10)[0] == 143
    assert int((tmp_path / "saved").read_text()) == json.loads((tmp_path / "outcome.json").read_text())["step"] > 1


def test_a_second_signal_ends_at_once(start, tmp_path):
    process = start("stuck_saving")
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "SIGTERM: stopping; a second signal ends the run at once\n"
    process.send_signal(signal.SIGTERM)
    code, errors = ends(process, 3)
    assert (code, errors.count("\n")) == (6, 1)
    assert "ended at once by a second signal" in errors
    assert outcome(tmp_path) == ("abandoned", 6)


def test_a_save_that_fails_is_what_ended_the_run(start, tmp_path):
    process = start("failing_to_save")
    process.send_signal(signal.SIGTERM)
    code, errors = ends(process, 10)
    assert code == 5
    assert "No space left on device" in errors
    assert outcome(tmp_path) == ("storage", 5)


@pytest.mark.parametrize("body", ["swallowing", "in_c"])
def test_a_main_thread_that_does_not_end_is_ended(start, tmp_path, body):
    process = start(body)
    process.send_signal(signal.SIGTERM)
    code, errors = ends(process, 15)
    assert code == 143
    assert "nothing is lost" in errors
    assert outcome(tmp_path) == ("stopped", 143)


def test_several_hosts_stop_where_all_are(start, tmp_path):
    process = start("together")
    process.send_signal(signal.SIGINT)
    assert ends(process, 10)[0] == 130
    assert (tmp_path / "saved").exists()
    assert outcome(tmp_path) == ("stopped", 130)


def test_a_host_that_got_no_signal_stops_with_the_others(start, tmp_path):
    code, errors = ends(start("told_by_another"), 10)
    assert code == 143
    assert errors == "stopped by SIGTERM; nothing is lost, the same command resumes\n"
    assert outcome(tmp_path) == ("stopped", 143)


def test_where_no_step_comes_a_host_stops_alone_and_says_what_it_costs(start, tmp_path):
    process = start("alone")
    process.send_signal(signal.SIGTERM)
    code, errors = ends(process, 10)
    assert code == 143
    assert "no step ended within 1 s, so the same command resumes from the last checkpoint" in errors
    assert outcome(tmp_path) == ("stopped", 143)


def test_a_run_that_is_over_before_the_hosts_agree_has_finished(start, tmp_path):
    process = start("over_before_all_knew")
    process.send_signal(signal.SIGTERM)
    assert ends(process, 10)[0] == 0
    assert outcome(tmp_path) == ("finished", 0)


def test_afterwards_signals_do_what_they_did(tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with Outcome(tmp_path) as run, Stop(run) as stop:
        run.begin()
        with stop.busy():
            assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_watchdog_shows_where_every_thread_hangs(tmp_path):
    stop = Stop(Outcome(tmp_path))
    with stop.watchdog(0.2):
        time.sleep(1)
    stacks = (tmp_path / "stacks.txt").read_text()
    assert "test_the_watchdog_shows_where_every_thread_hangs" in stacks
    assert stacks.count("Timeout (0:00:00.2") >= 2


def test_a_watchdog_that_is_fed_says_nothing_and_leaves_nothing(tmp_path):
    stop = Stop(Outcome(tmp_path))
    with stop.watchdog(1):
        for _ in range(15):
            stop.watched(lambda *_: time.sleep(0.1))("pictures", 1, 2)
    with stop.watchdog(0):
        stop.alive()
    assert list(tmp_path.iterdir()) == []
