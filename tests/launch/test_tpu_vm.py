"""launch/tpu_vm.sh against a recorder of gcloud, which stands for the cloud: see conftest.py."""

import re
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
PLACE = ("--zone=us-west4-a", "--poll_secs=0")
SLICE = (*PLACE, "--accelerator_type=v5litepod-16", "--bucket=my-bucket")
MAIN = ("--", "--config=configs/coco.py", "--workdir=bucket/runs/coco", "--config.data.vocabulary=the cat's/vocab.txt")
READY = {"bridge": ["READY", "v5litepod-16"]}
FLAGS = {
    "tpu_vm_run": ("run", "--dry_run", *SLICE, *MAIN),
    "tpu_vm_run_queued": ("run", "--dry_run", *SLICE, "--project=my-project", "--name=coco", "--queued", "--spot",
                          "--service_account=bridge@my-project.iam.gserviceaccount.com", "--data=gs://my-bucket/data",
                          "--repo=https://example.com/a b.git", f"--commit={'0123456789' * 4}", *MAIN),
    "tpu_vm_follow": ("follow", "--dry_run", *PLACE),
    "tpu_vm_stop": ("stop", "--dry_run", *PLACE),
    "tpu_vm_delete": ("delete", "--dry_run", *PLACE),
}  # fmt: skip


def steps(machine):
    """Return the actions on the slice: the verb of every gcloud call, and for ssh the command of tpu_worker.sh."""
    actions = []
    for program, *words in machine.calls:
        if program == "gcloud" and words[:2] == ["compute", "tpus"]:
            worker = re.search(r"tpu_worker.sh (\w+)", " ".join(words))
            queued = "queued " if words[2] == "queued-resources" else ""
            actions.append(worker[1] if worker else queued + words[3])
    return actions


def changes(machine):
    """Return the calls of gcloud, without those that only read."""
    return [words for words in machine.calls if words[0] == "gcloud" and "list" not in words]


UP = ["scp", "ssh", "install", "start", "follow"]


@pytest.mark.parametrize("name", FLAGS)
def test_dry_run_prints_the_commands_and_runs_none(machine, name):
    """gcloud is not on the PATH; the expected text is tests/launch/golden/NAME.txt."""
    (machine.bin / "gcloud").unlink()
    done = machine.script("tpu_vm", *FLAGS[name])
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout.replace(machine.commit, "COMMIT").replace(machine.commit[:12], "SHORT")
    assert text.replace(str(machine.folder), "/tmp") == (GOLDEN / f"{name}.txt").read_text()
    assert machine.calls == []


@pytest.mark.parametrize("queued", [(), ("--queued", "--spot")], ids=["slice", "queued"])
def test_what_the_dry_run_prints_can_be_pasted(machine, queued):
    """Pasted into bash, the printed lines make exactly the calls of the real run."""
    real = machine.script("tpu_vm", "run", *SLICE, *queued, *MAIN)
    assert real.returncode == 0, real.stderr
    expected = changes(machine)
    printed = machine.script("tpu_vm", "run", "--dry_run", *SLICE, *queued, *MAIN).stdout
    machine.simulate()
    for home in machine.homes:
        (home / "bridge_jax/run.pid").unlink()
    pasted = machine.run("bash", "-e", input=printed)
    assert pasted.returncode == 0, pasted.stderr
    assert changes(machine) == expected


def test_a_slice_is_created_where_there_is_none(machine):
    machine.simulate(slices={"bridge-2": ["READY", "v5litepod-4"]})
    done = machine.script("tpu_vm", "run", *SLICE, *MAIN)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["list", "create", "list", *UP]


def test_a_slice_that_is_there_is_reused(machine):
    machine.simulate(slices=READY)
    done = machine.script("tpu_vm", "run", *SLICE, *MAIN)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["list", *UP]


def test_a_slice_of_another_type_is_not_reused(machine):
    machine.simulate(slices={"bridge": ["READY", "v5litepod-4"]})
    done = machine.script("tpu_vm", "run", *SLICE, *MAIN)
    assert (done.returncode, steps(machine)) == (2, ["list"])
    assert done.stderr == (
        "error: expected bridge to be v5litepod-16, got v5litepod-4; delete it or give another --name\n"
    )


def test_a_queued_resource_is_waited_for(machine):
    machine.simulate(after_create=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    done = machine.script("tpu_vm", "run", *SLICE, "--queued", *MAIN)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["queued list", "queued create", *["queued list"] * 3, *UP]
    assert "bridge is WAITING_FOR_RESOURCES\nbridge is PROVISIONING\n" in done.stderr


def test_a_request_that_fails_is_not_made_again(machine):
    machine.simulate(after_create=["FAILED"])
    done = machine.script("tpu_vm", "run", *SLICE, "--queued", "--restarts=3", *MAIN)
    assert (done.returncode, steps(machine)) == (1, ["queued list", "queued create", "queued list"])
    assert done.stderr.endswith("error: expected bridge to come up, got FAILED; see gcloud compute tpus ... describe\n")


@pytest.mark.parametrize(
    ("resources", "queued", "looks"),
    [
        ({"slices": {"bridge": ["PREEMPTED", "v5litepod-16"]}}, (), ["list", "delete", "list", "create", "list"]),
        ({"queued": {"bridge": [["SUSPENDING", "SUSPENDED"], "v5litepod-16"]}}, ("--queued",),
         [f"queued {verb}" for verb in ("list", "list", "delete", "list", "create", "list")]),
    ],
    ids=["slice", "queued"],
)  # fmt: skip
def test_the_same_command_goes_on_after_a_preemption(machine, resources, queued, looks):
    """The rest of the slice is deleted, the slice is created anew, and main gets the same flags."""
    machine.simulate(**resources)
    done = machine.script("tpu_vm", "run", *SLICE, *queued, *MAIN)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == [*looks, *UP]


@pytest.mark.parametrize("after", ["PREEMPTED", "gone"])
def test_restarts_go_on_by_themselves(machine, after):
    machine.simulate(slices=READY, runs=[[255, after], [143, after], 0])
    done = machine.script("tpu_vm", "run", *SLICE, "--restarts=2", *MAIN)
    assert done.returncode == 0, done.stderr
    again = (
        ["list", "list", "delete", "list", "create", "list"]
        if after == "PREEMPTED"
        else ["list", "list", "create", "list"]
    )
    assert steps(machine) == ["list", *UP, *again, *UP, *again, *UP]
    starts = [words for words in machine.calls if "tpu_worker.sh start" in " ".join(words)]
    assert len(starts) == 3
    assert starts.count(starts[0]) == 3


def test_restarts_have_an_end(machine):
    machine.simulate(slices=READY, runs=[[143, "PREEMPTED"], [143, "PREEMPTED"]])
    done = machine.script("tpu_vm", "run", *SLICE, "--restarts=1", *MAIN)
    assert done.returncode == 143
    assert steps(machine).count("start") == 2
    assert done.stderr.endswith(
        "error: bridge is PREEMPTED; give the same command again to resume from bucket/runs/coco\n"
    )


def test_a_run_that_fails_by_itself_is_not_restarted(machine):
    machine.simulate(slices=READY, runs=[2])
    done = machine.script("tpu_vm", "run", *SLICE, "--restarts=5", *MAIN)
    assert (done.returncode, steps(machine)) == (2, ["list", *UP, "list"])
    assert "error: the run ended with code 2; " in done.stderr


def test_a_lost_connection_is_made_again(machine):
    machine.simulate(slices=READY, runs=[255, 255, 0])
    done = machine.script("tpu_vm", "run", *SLICE, *MAIN)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["list", *UP, "list", "follow", "list", "follow"]


@pytest.mark.parametrize(
    ("failing", "code", "last"),
    [("tpu-vm list", 7, "list"), ("tpu-vm create", 3, "create"), ("tpu-vm scp", 4, "scp"),
     ("worker.sh install", 5, "install"), ("worker.sh start", 6, "start")],
)  # fmt: skip
def test_a_failing_command_stops_the_script_with_its_code(machine, failing, code, last):
    machine.simulate(fail={failing: code})
    done = machine.script("tpu_vm", "run", *SLICE, "--restarts=5", *MAIN)
    assert done.returncode == code
    assert steps(machine)[-1] == last
    assert done.stderr.endswith("ERROR: (gcloud) simulated\n")


@pytest.mark.parametrize(
    ("resources", "expected", "says"),
    [
        ({"slices": READY}, ["queued list", "list", "delete"], "deleted bridge\n"),
        ({"slices": READY, "queued": {"bridge": ["ACTIVE", ""]}}, ["queued list", "queued delete"], "deleted bridge\n"),
        ({"slices": {"other": ["READY", ""]}}, ["queued list", "list"],
         "bridge is not in us-west4-a: nothing to delete\n"),
    ],
    ids=["slice", "queued", "missing"],
)  # fmt: skip
def test_delete(machine, resources, expected, says):
    machine.simulate(**resources)
    done = machine.script("tpu_vm", "delete", *PLACE)
    assert (done.returncode, done.stderr, steps(machine)) == (0, says, expected)
    if "queued" in resources:  # with its slice: without --force Google Cloud refuses
        assert {"--force", "--quiet"} <= set(machine.calls[-1])


@pytest.mark.parametrize("failing", ["queued-resources list", "tpu-vm list", "tpu-vm delete"])
def test_delete_never_takes_a_failure_for_an_absent_slice(machine, failing):
    """A slice that is wrongly believed to be gone costs money."""
    machine.simulate(slices=READY, fail={failing: 9})
    done = machine.script("tpu_vm", "delete", *PLACE)
    assert (done.returncode, done.stderr) == (9, "ERROR: (gcloud) simulated\n")


def test_follow_ends_with_the_code_of_the_run(machine):
    machine.simulate(slices=READY, runs=[130])
    assert machine.script("tpu_vm", "follow", *PLACE).returncode == 130
    assert steps(machine) == ["follow"]


def test_changes_that_are_not_committed_are_named(machine):
    (machine.repository / "constraints.txt").write_text("")
    done = machine.script("tpu_vm", *FLAGS["tpu_vm_run"])
    assert (done.returncode, done.stderr) == (0, "note: uncommitted changes are not sent\n")


V6E = "run --zone=z --accelerator_type=v6e-8"
UNKNOWN = "expected a flag that the top of launch/tpu_vm.sh lists, got '{}'; flags of bridge_jax.main go after --"
BAD = {
    "": "expected run, follow, stop or delete as the first word, got ''",
    "start": "expected run, follow, stop or delete as the first word, got 'start'",
    "run --zone=z --spt": UNKNOWN.format("--spt"),
    "run --zone z": UNKNOWN.format("--zone"),
    "run --zone=": UNKNOWN.format("--zone="),
    "delete": "expected --zone=ZONE, got none; give the zone of your TPU quota, such as --zone=us-west4-a",
    "delete --zone=z --name=My_TPU": "expected --name of small letters, digits and hyphens, got 'My_TPU'",
    "run --zone=z --spot --reserved": "expected one of --spot and --reserved, got both; drop one",
    "run --zone=z --poll_secs=x": "expected --poll_secs=SECONDS, got 'x'; give a whole number",
    "run --zone=z --restarts=x": "expected --restarts=N, got 'x'; give a whole number",
    "run --zone=z --accelerator_type=v9-8": (
        "expected --accelerator_type=v4-N, v5litepod-N, v5p-N or v6e-N, got 'v9-8'; see the README"
    ),
    f"{V6E} --bucket=gs://b": (
        "expected --bucket=NAME without gs://, got 'gs://b'; the run is saved there, since a slice keeps nothing"
    ),
    f"{V6E} --bucket=b -- --workdir=gs://b/run": (
        "expected -- --workdir=bucket/FOLDER, got 'gs://b/run'; --bucket is mounted as bucket/"
    ),
    f"{V6E} --bucket=b --data=data -- --workdir=bucket/a": (
        "expected --data=gs://BUCKET/FOLDER, got 'data'; copy the data there first, see launch/README.md"
    ),
    f"{V6E} --bucket=b --repo=u --commit=main -- --workdir=bucket/a": (
        "expected --commit=COMMIT of 40 digits with --repo, got 'main'; see git log"
    ),
    f"{V6E} --bucket=b --commit=main -- --workdir=bucket/a": (
        "expected --repo=URL with --commit, got none; give both, or neither to send HEAD of this repository"
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_flags_are_one_line_and_cost_nothing(machine, words):
    done = machine.script("tpu_vm", *words.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {BAD[words]}\n")
    assert machine.calls == []


def test_no_test_can_reach_a_real_cloud(machine):
    """A real gcloud with credentials may be installed on this machine."""
    for name in ("gcloud", "kubectl", "sbatch", "srun", "ssh"):
        program = shutil.which(name, path=machine.env["PATH"])
        assert program is None or "recorder.py" in Path(program).read_text()
