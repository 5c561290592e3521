"""launch/slurm.sh with recorders in place of srun and scontrol: see conftest.py."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

FLAGS = ("--config=configs/coco.py", "--workdir=/shared/runs/coco", "--config.data.vocabulary=the cat's/vocab.txt")
SRUN = ["srun", "--kill-on-bad-exit=1", ".venv/bin/python", "-m", "bridge_jax.main", *FLAGS]

TRAINING = "training " + " ".join(SRUN[1:]) + "\n"
NO_WORKDIR = "expected --workdir=FOLDER, got none; give a folder that all nodes share; a requeued job resumes from it"


def finish(started):
    out, err = started.communicate(timeout=20)
    return started.returncode, out, err


@pytest.fixture
def job(machine):
    """Return a function that starts the batch script as Slurm does: a copy, anywhere, with these variables."""
    python = machine.repository / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(machine.bin / "python3")
    (machine.repository / "bridge_jax").mkdir()
    (machine.repository / "bridge_jax/main.py").touch()
    script = machine.folder / "slurm_script"
    script.write_bytes((machine.repository / "launch/slurm.sh").read_bytes())

    def start(*flags, **variables):
        slurm = {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(machine.repository)}
        return subprocess.Popen(
            ["bash", script, *flags], cwd="/", env=machine.env | slurm | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def test_dry_run(machine):
    (machine.bin / "srun").unlink()
    done = machine.script("slurm", "--dry_run", *FLAGS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (Path(__file__).parent / "golden/slurm.txt").read_text()


def test_the_job_runs_what_the_dry_run_prints(machine, job):
    assert finish(job(*FLAGS)) == (0, TRAINING, "")
    assert machine.calls == [SRUN]
    printed = machine.script("slurm", "--dry_run", *FLAGS).stdout.splitlines()[-1]
    machine.simulate()
    machine.run("bash", input=printed)
    assert machine.calls == [SRUN]


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"}, "0,1,2,3"),  # JAX would take the first alone
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4"}, "unset"),
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "1"}, "unset"),
    ],
)
def test_one_task_a_node_has_all_of_its_gpus(machine, job, variables, devices):
    srun = machine.bin / "srun"
    srun.write_text('#!/bin/sh\necho "${JAX_LOCAL_DEVICE_IDS:-unset} ${SRUN_CPUS_PER_TASK:-unset}"\n')
    started = job(*FLAGS, **variables, SLURM_CPUS_PER_TASK="8")
    assert finish(started) == (0, f"{devices} 8\n", "")


@pytest.mark.parametrize("code", [1, 2])
def test_a_run_that_fails_by_itself_is_not_queued_again(machine, job, code):
    machine.simulate(code=code)
    assert finish(job(*FLAGS))[0] == code
    assert machine.calls == [SRUN]


@pytest.mark.parametrize("refused", [{}, {"scontrol requeue": 1}])
def test_the_signal_before_the_end_queues_the_job_again(machine, job, refused):
    """The script waits for srun, which Slurm ends. If the script left first, the job would count as done."""
    machine.simulate(seconds=1, fail=refused)
    started = job(*FLAGS)
    machine.wait_for(lambda: machine.calls == [SRUN])
    os.kill(started.pid, signal.SIGUSR1)
    machine.wait_for(lambda: len(machine.calls) == 2)
    assert machine.calls[1] == ["scontrol", "requeue", "42"]
    assert started.poll() is None
    assert finish(started)[:2] == (0, TRAINING)
    assert len(machine.calls) == 2


@pytest.mark.parametrize(
    ("flags", "slurm", "error"),
    [
        (FLAGS[:1], {}, NO_WORKDIR),
        (("--dry_run",), {}, NO_WORKDIR),
        (FLAGS, {"SLURM_JOB_ID": ""}, "expected to run in a Slurm job, got a plain shell; submit it: sbatch "
                                      "launch/slurm.sh ..."),
        (FLAGS, {"SLURM_SUBMIT_DIR": "/"}, "expected a job submitted from the repository root, got /; cd there first"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line(machine, job, flags, slurm, error):
    assert finish(job(*flags, **slurm)) == (2, "", f"error: {error}\n")
    assert machine.calls == []


def test_a_missing_environment_is_named(machine, job):
    (machine.repository / ".venv/bin/python").unlink()
    error = f"error: expected .venv with the package, got none in {machine.repository}; see launch/README.md\n"
    assert finish(job(*FLAGS)) == (2, "", error)
