"""A machine for the launch scripts: the repository in small, and a PATH on which nothing can spend money.

The scripts run with a PATH of their own that holds the few system tools they use and recorders (tests/launch/
recorder.py) in place of gcloud, srun, scontrol and others. A recorder stands for the cloud because no test may reach a
real one, whether or not its command line is installed here: it shows what is called, in which order and how a script
reacts to states and exit codes, and cannot show that Google Cloud or Slurm accept it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("awk", "bash", "cat", "cksum", "dirname", "git", "mkdir", "nohup", "rm", "sed", "seq", "setsid", "sleep",
         "tail")  # fmt: skip
RECORDED = ("gcloud", "gcsfuse", "findmnt", "python3", "srun", "scontrol")


class Machine:
    """Runs scripts of the small repository; `calls` lists what the recorders recorded."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.repository, self.bin = folder, folder / "repository", folder / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is missing on this machine"))
        for name in RECORDED:
            self.record(self.bin / name)
        self.homes = [folder / f"worker{n}" for n in range(workers)]
        for home in self.homes:  # as an earlier installation left it: making an environment takes minutes
            self.record(home / "bridge_jax/.venv/bin/python")
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "TMPDIR": str(folder), "RECORDER": str(folder),
                    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}  # fmt: skip
        shutil.copytree(ROOT / "launch", self.repository / "launch")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.repository)
        self.run("git", "init", "--quiet")
        self.run("git", "add", ".")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message=t")
        self.commit = self.run("git", "rev-parse", "HEAD").stdout.strip()
        self.simulate()

    def record(self, path: Path):
        """Put a recorder at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {ROOT}/tests/launch/recorder.py {path.name} "$@"\n')
        path.chmod(0o755)

    def simulate(self, **changes):
        """Set what the recorders answer; see recorder.py."""
        state = {"slices": {}, "queued": {}, "after_create": ["ACTIVE"], "runs": [0], "fail": {}, "workers": []}
        state["workers"] = [str(home) for home in self.homes]
        (self.folder / "state.json").write_text(json.dumps(state | changes))
        (self.folder / "calls.jsonl").write_text("")

    def state(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())

    def run(self, *words: str, **options) -> subprocess.CompletedProcess:
        options = {"cwd": self.repository, "env": self.env, "timeout": 60} | options
        return subprocess.run(words, capture_output=True, text=True, **options)

    def script(self, name: str, *words: str, **options) -> subprocess.CompletedProcess:
        return self.run("bash", f"launch/{name}.sh", *words, **options)

    @property
    def calls(self) -> list[list[str]]:
        """Return the recorded calls, in order."""
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    def wait_for(self, happened, seconds=20.0):
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, self.calls
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path, workers=2)
