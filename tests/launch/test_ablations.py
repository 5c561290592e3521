"""launch/ablate.yaml, and the array of launch/README.md: one job for each cell, with flags that tools.ablate has."""

import json
import re
import shlex
import sys
from pathlib import Path

import yaml

from tests.docs.test_commands import run
from tests.docs.test_flags import PARSE

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch/ablate.yaml").read_text(encoding="utf-8")


def read(text=TEXT):
    """Return the Job and its container."""
    job = yaml.safe_load(text)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return job, container


def test_a_setting_at_the_top_reaches_every_place_that_needs_it():
    where = {
        "repository": lambda job, container: container["env"][0]["value"],
        "commit": lambda job, container: container["env"][1]["value"],
        "claim": lambda job, container: job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"][
            "claimName"
        ],
    }
    assert where.keys() == yaml.safe_load(TEXT)["metadata"]["annotations"].keys()
    for name, find in where.items():
        anchor = f"&{name} "
        changed = TEXT.replace(anchor + TEXT.split(anchor)[1].splitlines()[0], f'{anchor}"changed"')
        assert find(*read(changed)) == "changed"


def test_a_cell_that_fails_starts_again_and_mistakes_end_the_job():
    job, container = read()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")
    assert spec["backoffLimitPerIndex"] > 0
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (mount,) = container["volumeMounts"]
    assert f"--out={mount['mountPath']}/" in container["args"][0]  # a pod keeps nothing after it ends


def test_the_container_runs_the_cell_of_its_number(machine):
    """Run the container's script with recorders."""
    _, container = read()
    script = container["args"][0].replace("/bridge_jax", str(machine.folder / "code")).replace("/cells/data", "launch")
    for name in ("pip", "python"):
        (machine.bin / name).write_bytes((machine.bin / "python3").read_bytes().replace(b"python3", name.encode()))
        (machine.bin / name).chmod(0o755)
    (machine.bin / "cp").symlink_to("/bin/cp")
    env = machine.env | {"REPOSITORY": str(machine.repository), "COMMIT": machine.commit, "JOB_COMPLETION_INDEX": "7"}
    done = machine.run(*container["command"], script, env=env)
    assert done.returncode == 0, done.stderr
    installs, cell = machine.calls
    assert installs[-1] == ".[ablate,cuda]"
    assert cell[:3] == ["python", "-m", "tools.ablate"]
    assert cell[-1] == "--cell=7"


def test_the_flags_of_both_are_accepted():
    """And the array has as many jobs as the grid has cells: four rows with three seeds."""
    job, container = read()
    line = re.search(r"exec python -m (.*?)\n\S*$", container["args"][0].replace("\\\n", ""), re.S)[1]
    page = (ROOT / "launch/README.md").read_text(encoding="utf-8")
    array, wrapped = re.search(r"^sbatch --array=0-(\d+) .*--wrap='(.*)'$", page, re.M).groups()
    assert int(array) + 1 == job["spec"]["completions"] == 12
    words = [shlex.split(line), shlex.split(wrapped.removeprefix(".venv/bin/python -m "))]
    assert [each[-1] for each in words] == ["--cell=$JOB_COMPLETION_INDEX", "--cell=$SLURM_ARRAY_TASK_ID"]
    run([sys.executable, "-W", "ignore", "-c", PARSE, json.dumps([[*each[:-1], "--cell=0"] for each in words])])
