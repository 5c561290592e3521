"""The rules that all launch scripts share, and the extras that they install."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.workdir import log

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(ROOT.glob("launch/*.sh"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [program, "--external-sources", script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert max(len(line) for line in lines) <= 120


def test_readme_names_every_file():
    text = (ROOT / "launch/README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("launch/*"):
        assert path.name == "README.md" or f"| `{path.name}` |" in text


def test_the_commands_of_the_readme_are_accepted(machine):
    """Run each command dry, in the environment of the README. A command may span several lines."""
    text = (ROOT / "launch/README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^bash launch/tpu_vm.sh \w+", text, re.MULTILINE)
    assert {command.split()[-1] for command in commands} == {"run", "follow", "stop", "delete"}
    exports = "\n".join(re.findall(r"^export .*", text, re.MULTILINE))
    for line in re.findall(r"^(?:bash launch/tpu_vm|sbatch .*launch/slurm).*", text, re.MULTILINE):
        dry = re.sub(r"^(bash launch/tpu_vm.sh \w+)|^sbatch .*launch/slurm.sh", r"\1 --dry_run", line)
        dry = dry if dry.startswith("bash") else f"bash launch/slurm.sh{dry}"
        done = machine.run("bash", "-euc", f"{exports}\n{dry}")
        assert (done.returncode, done.stderr) == (0, ""), line
    assert machine.calls == []


def test_the_accelerator_extras_exist_in_jax():
    """pip only warns about an extra that jax does not have, and the run would use the CPU."""
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    for name in ("tpu", "cuda"):
        (requirement,) = PROJECT["optional-dependencies"][name]
        assert re.fullmatch(r"jax\[(.+)\]", requirement)[1] in offered


def test_every_test_dependency_has_its_tested_version():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    (brought,) = (line for line in extras["test"] if line.startswith("bridge_jax["))
    others = brought.removeprefix("bridge_jax[").removesuffix("]").split(",")
    named = {*extras["test"], *(line for name in others for line in extras[name])} - {brought}
    assert {requirement.partition(">")[0] for requirement in named} <= pinned


@pytest.mark.parametrize(
    ("words", "tests"),
    [
        ([], []),
        (["-k", "recall", "-x"], ["-k", "recall", "-x"]),
        (["--quick"], ["@tests/quick.txt"]),
        (["-k", "a b", "--quick"], ["-k", "a b", "@tests/quick.txt"]),
        (["--quicker"], ["--quicker"]),
    ],
)
def test_the_flags_of_test_sh_reach_pytest_and_quick_is_its_list(machine, words, tests):
    """Every other flag goes to pytest, even a mistyped one. ruff runs before the tests either way."""
    machine.record(machine.repository / ".venv/bin/python")
    env = machine.env | {"PATH": f"{machine.env['PATH']}:{os.defpath}"}
    done = machine.script("test", *words, env=env)
    assert done.returncode == 0, done.stderr
    calls = [call[2:] for call in machine.calls if call[0] == "python"]
    assert ["ruff", "check", "."] in calls
    assert ["ruff", "format", "--check", "."] in calls
    assert calls[-1] == ["pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", *tests]


def test_the_quick_list_names_tests_that_exist_once_and_in_order():
    """With several processes, pytest ignores a test that does not exist."""
    names = (ROOT / "tests/quick.txt").read_text(encoding="utf-8").splitlines()
    assert names == sorted(set(names))
    assert "tests/test_types.py" in names  # pyright
    for name in names:
        file, _, test = name.partition("::")
        assert (ROOT / file).exists(), name
        assert not test or f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_a_bucket_is_no_workdir():
    """This is why tpu_vm.sh and gke.yaml mount the bucket; once it is possible, they need not."""
    with pytest.raises(ConfigError, match="give a local or mounted folder"):
        log.RunLog("gs://my-bucket/runs/coco")
