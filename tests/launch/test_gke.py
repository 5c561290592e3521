"""launch/gke.yaml: valid YAML whose numbers agree. No cluster checks it here; `kubectl apply --dry-run=server` does."""

import math
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch/gke.yaml").read_text(encoding="utf-8")
# Accelerator -> dimensions of its topology. Source: Google's "Plan TPUs in GKE".
DIMENSIONS = {"tpu-v4-podslice": 3, "tpu-v5-lite-podslice": 2, "tpu-v5p-slice": 3, "tpu-v6e-slice": 2}


def read(text=TEXT):
    """Return the JobSet, its Job and the pod's spec."""
    jobset = yaml.safe_load(text)
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    return jobset, job, job["template"]["spec"]


def check(text):
    _, job, pod = read(text)
    (train,) = pod["containers"]
    selector, resources = pod["nodeSelector"], train["resources"]
    topology = [int(n) for n in selector["cloud.google.com/gke-tpu-topology"].split("x")]
    assert len(topology) == DIMENSIONS[selector["cloud.google.com/gke-tpu-accelerator"]]
    assert resources["requests"] == resources["limits"]
    assert job["parallelism"] == job["completions"]
    assert job["parallelism"] * int(resources["limits"]["google.com/tpu"]) == math.prod(topology)


def test_hosts_times_chips_are_the_topology():
    check(TEXT)


@pytest.mark.parametrize(
    "change", [("&topology 4x4", "&topology 4x8"), ("&hosts 4", "&hosts 8"), ('&chips "4"', '&chips "8"')]
)
def test_the_check_of_the_numbers_can_fail(change):
    assert change[0] in TEXT
    with pytest.raises(AssertionError):
        check(TEXT.replace(*change))


def test_a_setting_at_the_top_reaches_every_place_that_needs_it():
    """Changing an annotation changes the pod: no value is written twice."""
    settings = yaml.safe_load(TEXT)["metadata"]["annotations"]
    where = {
        "repository": lambda pod: pod["containers"][0]["env"][0]["value"],
        "commit": lambda pod: pod["containers"][0]["env"][1]["value"],
        "bucket": lambda pod: pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"],
        "service-account": lambda pod: pod["serviceAccountName"],
        "accelerator": lambda pod: pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"],
        "topology": lambda pod: pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"],
        "chips-per-host": lambda pod: pod["containers"][0]["resources"]["limits"]["google.com/tpu"],
    }
    assert where.keys() == {name for name in settings if "/" not in name}
    for name, find in where.items():
        anchor = f"&{name.removesuffix('-per-host')} "
        changed = TEXT.replace(anchor + TEXT.split(anchor)[1].splitlines()[0], f'{anchor}"changed"')
        assert find(read(changed)[2]) == "changed"


def test_all_annotations_are_text():
    """The cluster would refuse a number."""
    assert all(isinstance(value, str) for value in yaml.safe_load(TEXT)["metadata"]["annotations"].values())


def test_preemptions_restart_the_job_and_mistakes_end_it():
    jobset, job, pod = read()
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]  # bridge_jax.run.command_line.USER_ERROR
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]


def test_the_workdir_is_in_the_bucket():
    """A pod keeps nothing after it ends."""
    (train,) = read()[2]["containers"]
    (mount,) = train["volumeMounts"]
    assert f"--workdir={mount['mountPath']}/" in train["args"][0]


def test_the_container_runs_what_is_installed_and_checked_out(machine):
    """Run the container's script with recorders: bash accepts it and its last command is main."""
    (train,) = read()[2]["containers"]
    script = train["args"][0].replace("/bridge_jax", str(machine.folder / "code")).replace("/bucket/data", "launch")
    for name in ("pip", "python"):
        (machine.bin / name).write_bytes((machine.bin / "python3").read_bytes().replace(b"python3", name.encode()))
        (machine.bin / name).chmod(0o755)
    (machine.bin / "cp").symlink_to("/bin/cp")
    env = machine.env | {"REPOSITORY": str(machine.repository), "COMMIT": machine.commit}
    done = machine.run(*train["command"], script, env=env)
    assert done.returncode == 0, done.stderr
    assert machine.calls == [
        ["pip", "install", "--quiet", "--constraint", "constraints.txt", "--editable", ".[tpu]"],
        ["python", "-m", "bridge_jax.main", "--config=configs/coco.py", "--workdir=/bucket/runs/coco"],
    ]
