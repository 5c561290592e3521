"""Change files and folders in one step: a kill at any moment leaves the old state or the new one, never a mixture."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REMOVED = ".removed"  # suffix of a folder that is being removed


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file: write a new one beside it, sync that to the disk, and rename it."""
    fresh = path.with_name(path.name + ".tmp")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file by a record as JSON."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def remove(folder: Path) -> None:
    """Remove a folder: a kill at any moment leaves the whole folder under its name, or nothing."""
    aside = folder.with_name(folder.name.removesuffix(REMOVED) + REMOVED)
    if folder.exists() and folder != aside:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
