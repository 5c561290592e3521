"""Disks that are full, read-only, damaged or slow, and a workdir that another run uses."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from bridge_jax.workdir import manifest
from tests.runs import assert_same


def outcome(workdir):
    record = json.loads((workdir / "outcome.json").read_text())
    return record["cause"], record["exit_code"]


@pytest.fixture
def on_a_disk():
    """Return the words that run a command with WORKDIR on a disk of `size`, remounted with `options`."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")

    def words(workdir, size, options="size=100m"):
        script = f"""
            mount -t tmpfs -o size={size} tmpfs /mnt && cp -r {workdir}/. /mnt && mount -o remount,{options} /mnt
            "$@" --workdir=/mnt
            code=$?
            mount -o remount,rw,size=100m /mnt
            cp -r /mnt/. {workdir}
            exit $code
        """
        return ("unshare", "-rm", "sh", "-c", script, "sh")

    return words


def test_a_full_disk_costs_nothing_that_was_saved(start, whole, on_a_disk, tmp_path):
    """Two checkpoints of 0.7 MB fit, the third does not."""
    workdir = tmp_path / "run"
    run = start(workdir, before=on_a_disk(workdir, "1800k", "size=1800k"))
    assert run.end() == 5, run.stderr.read_text()
    (line,) = (line for line in run.stderr.read_text().splitlines() if line.startswith("error:"))
    assert line.startswith("error: /mnt/checkpoints/")
    assert "No space left on device" in line
    assert outcome(workdir) == ("storage", 5)
    steps = manifest.committed(workdir / manifest.CHECKPOINTS)
    assert steps
    assert [manifest.fault(workdir / manifest.CHECKPOINTS / str(step)) for step in steps] == [""] * len(steps)
    run = start(workdir)
    assert run.end() == 0, run.stderr.read_text()
    assert_same(workdir, whole.workdir)


def test_a_read_only_disk_is_one_clear_line(start, on_a_disk, tmp_path):
    run = start(tmp_path / "run", before=on_a_disk(tmp_path / "run", "3m", "ro"))
    assert run.end() == 5
    assert "Read-only file system" in run.stderr.read_text()
    assert "Traceback" not in run.stderr.read_text()


def test_a_folder_without_permission_is_one_clear_line(start, whole, tmp_path):
    """If the test runs as root, the process gives up root's right to write everywhere."""
    workdir = tmp_path / "run"
    folder = workdir / manifest.CHECKPOINTS
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    without = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    run = start(workdir, before=without)
    assert run.end() == 5, run.stderr.read_text()
    (line,) = (line for line in run.stderr.read_text().splitlines() if line.startswith("error:"))
    assert str(folder) in line
    assert "Permission denied" in line
    assert "Traceback" not in run.stderr.read_text()
    assert outcome(workdir) == ("storage", 5)
    folder.chmod(0o755)
    run = start(workdir, before=without)
    assert run.end() == 0, run.stderr.read_text()
    assert_same(workdir, whole.workdir)


def test_a_slow_disk_costs_time_and_nothing_else(start, whole, tmp_path):
    """Reading a batch and writing a checkpoint take half a second longer each; the stop comes while a save is slow."""
    workdir = tmp_path / "run"
    run = start(workdir, "slow")
    assert run.reaches("save")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143, run.stderr.read_text()
    record = json.loads((workdir / "outcome.json").read_text())
    assert record["saved_step"] == record["step"] > 0
    run = start(workdir, "slow")
    assert run.end() == 0, run.stderr.read_text()
    assert_same(workdir, whole.workdir)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_named_and_made_again(start, whole, tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(whole.workdir, workdir)
    newest = workdir / manifest.CHECKPOINTS / "8"
    if damage == "missing":
        shutil.rmtree(newest / "opt_state")
    else:
        array = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(array.read_bytes())
        content[len(content) // 3] ^= 4
        array.write_bytes(content)
    run = start(workdir)
    assert run.end() == 0, run.stderr.read_text()
    assert f"checkpoint {newest} is damaged: " in run.stderr.read_text()
    assert "going back to checkpoint 6" in run.stderr.read_text()
    assert manifest.fault(newest) == ""
    assert_same(workdir, whole.workdir)


def test_two_runs_do_not_share_a_workdir(start, tmp_path):
    first = start(tmp_path / "run", "data")
    assert first.reaches("stalled")
    before = (tmp_path / "run" / "outcome.json").read_text()
    second = start(tmp_path / "run")
    assert second.end() == 4
    (line,) = second.stderr.read_text().splitlines()
    assert f"is in use by process {first.process.pid} on " in line
    assert (tmp_path / "run" / "outcome.json").read_text() == before
    first.process.kill()
    first.process.wait()


def test_a_second_signal_in_a_save_that_hangs_ends_at_once_and_harms_nothing(start, whole, tmp_path):
    workdir = tmp_path / "run"
    run = start(workdir, "save")
    assert run.reaches("stalled")
    run.process.send_signal(signal.SIGTERM)
    assert run.seconds_until_printed("stopping; a second signal ends the run at once") < 1
    time.sleep(1)
    assert run.process.poll() is None, "it must wait for the save"
    run.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert run.end() == 6
    assert time.monotonic() - began < 1.5
    assert outcome(workdir) == ("abandoned", 6)
    assert manifest.committed(workdir / manifest.CHECKPOINTS) == []
    assert os.listdir(workdir / manifest.CHECKPOINTS)
    run = start(workdir)
    assert run.end() == 0, run.stderr.read_text()
    assert_same(workdir, whole.workdir)
