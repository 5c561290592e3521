"""launch/ray.yaml, and the Slurm job of launch/README.md: a cluster whose command has flags that the program has."""

import json
import re
import shlex
import sys
from pathlib import Path

import yaml

from tests.docs.test_commands import run
from tests.docs.test_flags import PARSE

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "launch/ray.yaml").read_text(encoding="utf-8")


def read(text=TEXT):
    """Return the job's specification and the pods of its head and its workers."""
    spec = yaml.safe_load(text)["spec"]
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return spec, [group["template"]["spec"] for group in (cluster["headGroupSpec"], workers)]


def test_a_setting_at_the_top_reaches_every_place_that_needs_it():
    where = {
        "claim": lambda pod: pod["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "image": lambda pod: pod["containers"][0]["image"],
        "cores": lambda pod: pod["containers"][0]["resources"]["limits"]["cpu"],
        "memory": lambda pod: pod["containers"][0]["resources"]["requests"]["memory"],
    }
    assert where.keys() == yaml.safe_load(TEXT)["metadata"]["annotations"].keys()
    for name, find in where.items():
        anchor = f"&{name} "
        changed = TEXT.replace(anchor + TEXT.split(anchor)[1].splitlines()[0], f'{anchor}"changed"')
        assert [find(pod) for pod in read(changed)[1]] == ["changed"] * 2


def test_image_and_cluster_are_of_the_pinned_ray():
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    spec, pods = read()
    assert spec["rayClusterSpec"]["rayVersion"] == pinned
    assert {pod["containers"][0]["image"] for pod in pods} == {f"rayproject/ray:{pinned}-py311"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (package,) = yaml.safe_load(spec["runtimeEnvYAML"])["pip"]
    assert package.startswith("bridge_jax[ray] @ https://")


def test_both_commands_join_the_cluster_with_flags_that_are_accepted():
    spec, pods = read()
    shell = shlex.split(spec["entrypoint"])
    assert shell[:2] == ["bash", "-c"]
    folder, words = re.fullmatch(r"cd (\S+) && python -m (.*)", shell[2]).groups()
    assert all(pod["containers"][0]["volumeMounts"][0]["mountPath"] == folder for pod in pods)
    page = (ROOT / "launch/README.md").read_text(encoding="utf-8")
    nodes, slurm = re.search(r"^sbatch --nodes=(\d+) .*--wrap='srun .venv/bin/ray (.*)'$", page, re.M).groups()
    start, wrapped = slurm.split(" -- ")
    assert start == f"symmetric-run --address=$(hostname):6379 --min-nodes={nodes}"
    both = [shlex.split(words), shlex.split(wrapped.removeprefix(".venv/bin/python -m "))]
    assert [each[-1] for each in both] == ["--ray_address=auto"] * 2
    run([sys.executable, "-W", "ignore", "-c", PARSE, json.dumps(both)])
