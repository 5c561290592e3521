"""Files and folders that a kill at any moment leaves as they were, or as they shall be."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REMOVED = ".removed"  # stands behind the name of a folder that is being removed


def write_text(path: Path, text: str) -> None:
    """Replace a file: written aside, put on the disk, and renamed."""
    fresh = path.with_name(path.name + ".tmp")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file by a record as JSON."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def remove(folder: Path) -> None:
    """Remove a folder so that a kill at any moment leaves all of it under its name, or nothing."""
    aside = folder.with_name(folder.name.removesuffix(REMOVED) + REMOVED)
    if folder.exists() and folder != aside:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
