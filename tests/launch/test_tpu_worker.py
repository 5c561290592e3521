"""launch/tpu_worker.sh, run by `tpu-vm ssh` in a folder for every worker: the commands of tpu_vm.sh really do this."""

import pytest

from tests.launch.test_tpu_vm import MAIN, READY, SLICE


@pytest.fixture
def worker(machine):
    """Return a function that runs tpu_worker.sh on the first worker, which has the code."""
    machine.simulate(slices=READY, fail={"worker.sh start": 1})
    machine.script("tpu_vm", "run", *SLICE, *MAIN)
    machine.simulate()
    home = machine.homes[0] / "bridge_jax"

    def run(*words):
        return machine.run("bash", "launch/tpu_worker.sh", *words, cwd=home)

    run.home, run.machine = home, machine
    return run


def test_every_worker_trains_one_commit_with_the_flags_as_they_were_given(machine):
    """One flag has a space and a quote in it, and passes through two shells."""
    machine.simulate(slices=READY)
    assert machine.script("tpu_vm", "run", *SLICE, *MAIN).returncode == 0
    training = ["python", "-m", "bridge_jax.main", *MAIN[1:]]
    machine.wait_for(lambda: machine.calls.count(training) == 2)
    for home in machine.homes:
        assert machine.run("git", "rev-parse", "HEAD", cwd=home / "bridge_jax").stdout.strip() == machine.commit
        machine.wait_for((home / "bridge_jax/run.code").exists)
        assert (home / "bridge_jax/run.log").read_text() == "training " + " ".join(training[1:]) + "\n"


def test_a_clone_is_of_the_commit_that_was_asked_for(machine):
    """The branch may have moved on meanwhile."""
    commit = machine.commit
    (machine.repository / "constraints.txt").write_text("")
    machine.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--all", "--quiet", "--message=later")
    machine.simulate(slices=READY)
    done = machine.script("tpu_vm", "run", *SLICE, f"--repo={machine.repository}", f"--commit={commit}", *MAIN)
    assert done.returncode == 0, done.stderr
    assert machine.run("git", "rev-parse", "HEAD", cwd=machine.homes[1] / "bridge_jax").stdout.strip() == commit


def test_install(worker):
    done = worker("install", "--bucket=my-bucket", "--data=gs://my-bucket/data")
    assert done.returncode == 0, done.stderr
    calls = worker.machine.calls
    assert ["gcloud", "storage", "rsync", "--recursive", "gs://my-bucket/data", "data"] in calls
    mounts = [words for words in calls if words[0] == "gcsfuse"]
    assert [words[-2:] for words in mounts] == [["my-bucket", "bucket"]]
    # The second time: mounted already, and installed already.
    worker.machine.simulate(mounted="my-bucket")
    assert worker("install", "--bucket=my-bucket").returncode == 0
    assert not [
        words for words in worker.machine.calls if words[0] == "gcsfuse" or words[:3] == ["python", "-m", "pip"]
    ]


def test_the_tpu_extra_is_installed_with_the_tested_versions(machine):
    machine.simulate(slices=READY)
    assert machine.script("tpu_vm", "run", *SLICE, *MAIN).returncode == 0
    installs = [words for words in machine.calls if words[:4] == ["python", "-m", "pip", "install"]]
    wanted = ["python", "-m", "pip", "install", "--quiet", "--no-compile"]
    wanted += ["--constraint", "constraints.txt", "--editable", ".[tpu]"]
    assert installs == [wanted, wanted]


def test_another_bucket_is_not_mounted_over(worker):
    worker.machine.simulate(mounted="other")
    done = worker("install", "--bucket=my-bucket")
    assert (done.returncode, done.stderr) == (
        2,
        "error: expected bucket/ to be my-bucket, got other; delete the slice, or fusermount -u bucket\n",
    )


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_follow_shows_the_log_and_ends_with_the_code_of_the_run(worker, code):
    worker.machine.simulate(code=code, seconds=0.3)
    assert worker("start", "--workdir=bucket/a").returncode == 0
    done = worker("follow")
    assert (done.returncode, done.stdout) == (code, "training -m bridge_jax.main --workdir=bucket/a\n")


def test_one_run_at_a_time(worker):
    worker.machine.simulate(seconds=30)
    assert worker("start", "--workdir=bucket/a").returncode == 0
    process = (worker.home / "run.pid").read_text().strip()
    done = worker("start", "--workdir=bucket/a")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: expected no run on this worker, got process {process}; follow it, or stop it first: tpu_vm.sh stop\n",
    )
    assert worker("stop").returncode == 0
    assert worker("stop").returncode == 0  # there is none any more
    done = worker("follow")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: the run was stopped before it ended; give the command of tpu_vm.sh run again to resume\n"
    )
    assert worker("start", "--workdir=bucket/a").returncode == 0
    assert worker("stop").returncode == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "expected install, start, follow or stop as the first word, got ''"),
        (("fail",), "expected install, start, follow or stop as the first word, got 'fail'"),
        (("install",), "expected --bucket=BUCKET, got none"),
        (("install", "--disk=a"), "expected --bucket=BUCKET or --data=gs://BUCKET/FOLDER, got '--disk=a'"),
        (("follow",), "expected a run on this worker, got none; start one: tpu_vm.sh run"),
    ],
)
def test_bad_flags_are_one_line(worker, words, error):
    done = worker(*words)
    assert (done.returncode, done.stderr) == (2, f"error: {error}\n")
