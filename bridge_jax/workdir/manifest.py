"""Write and check the manifest of a folder: the size and SHA-256 of every file, written last.

Files are hashed rather than arrays: file hashes also cover the metadata without which arrays cannot be read, they tell
a missing, a truncated and an additional file apart, and checking them needs neither JAX nor memory for the model. The
scores of a checkpoint come later and are kept in the manifest too, which carries a hash of itself.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge_jax.config import as_json
from bridge_jax.workdir import atomic

FILE = "manifest.json"
# Orbax writes these two between our manifest and its rename; they hold the time, and no reader needs them.
_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")
CHECKPOINTS = "checkpoints"  # folder of a workdir with one folder per saved step


def committed(folder: Path) -> list[int]:
    """Return the steps of the completely written checkpoints in `folder`, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def write(folder: Path) -> None:
    """Hash every file in `folder`, sync it to the disk, and write the manifest."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
            os.fsync(file.fileno())
    _write(folder, files, {})


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest: `files`, `scores` and the hash of both. Raises ValueError if it is missing or damaged."""
    try:
        manifest = as_json.loads((folder / FILE).read_text(encoding="utf-8"))
        whole = manifest["sha256"] == _digest(manifest["files"], manifest["scores"])
    except FileNotFoundError as error:
        raise ValueError(f"{FILE} is missing") from error
    except OSError as error:
        raise ValueError(f"{FILE} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{FILE} is damaged") from error
    if not whole:
        raise ValueError(f"{FILE} is damaged")
    return manifest


def fault(folder: Path) -> str:
    """Return a text that names the first file that differs from the manifest, or an empty string."""
    try:
        expected = read(folder)["files"]
    except ValueError as error:
        return str(error)
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} was added"
        try:
            size = present[name].stat().st_size
            if size != expected[name]["bytes"]:
                return f"{name} has {size} bytes, but {expected[name]['bytes']} were written"
            with present[name].open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected[name]["sha256"]:
                    return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def score(folder: Path, scores: Mapping[str, float]) -> None:
    """Write scores into the manifest of a folder. Raises ValueError if it is missing or damaged."""
    _write(folder, read(folder)["files"], dict(scores))


def _write(folder: Path, files: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    atomic.write_json(folder / FILE, {"files": files, "scores": scores, "sha256": _digest(files, scores)})


def _digest(files: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps([files, scores], sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    unhashed = {folder / name for name in (FILE, FILE + ".tmp", *_LATER)}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in unhashed)
