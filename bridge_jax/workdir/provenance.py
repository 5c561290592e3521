"""Record the code, the devices and the data of a run, a line for each start: `WORKDIR/starts.jsonl`."""

import datetime
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import bridge_jax
from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import atomic

FILE = "starts.jsonl"
KEYS = ("at", "step", "commit", "uncommitted", "jax", "platform", "device", "devices", "processes", "data")


def write(folder: Path, step: int, data: str) -> None:
    """Append the line of a start that goes on after `step`. `data` is `records.run_fingerprint` of the run."""
    path, first = folder / FILE, jax.devices()[0]
    line = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "step": step,
        **commit(),
        "jax": jax.__version__,
        "platform": first.platform,
        "device": first.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "data": data,
    }
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    atomic.write_text(path, before + json.dumps(line) + "\n")


def read(folder: Path) -> list[Mapping[str, Any]]:
    """Return the starts of a workdir, oldest first; none where an older version ran. Raises ConfigError."""
    path = folder / FILE
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = as_json.loads(line)
            found.append({key: record[key] for key in KEYS})
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: expected a start ({error!r}); move the file away") from error
    return found


def commit() -> dict[str, Any]:
    """Return the commit of this code, and whether package or experiments differ from it; empty where git has neither.

    A package that is installed into a folder of another repository is not part of that repository's commits.
    """
    root = Path(bridge_jax.__file__).parents[1]

    def git(*words: str) -> str:
        try:
            command = ["git", "--no-optional-locks", "-C", str(root), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    ours = git("ls-files", "bridge_jax/__init__.py")
    changed = git("status", "--porcelain", "--", "bridge_jax", "configs") if ours else ""
    return {"commit": git("rev-parse", "HEAD") if ours else "", "uncommitted": bool(changed)}
