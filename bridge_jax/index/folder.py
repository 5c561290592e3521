"""The photos of a folder: which are new, changed, moved or deleted since the index was built."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bridge_jax.config import ConfigError
from bridge_jax.index.store import File
from bridge_jax.types import Progress

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")


class Changes(NamedTuple):
    """Number of files by what happened to them since the last build."""

    new: int
    changed: int
    moved: int
    deleted: int
    unchanged: int


def survey(folder: Path, before: Sequence[File], progress: Progress) -> list[File]:
    """Return the photos of a folder and of those in it, sorted by path, each with its hash.

    Other files, such as the film of a live photo, and hidden ones are passed over. A file of the same size and time as
    `before` is not read again. Raises ConfigError where the folder is missing or has no photo.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: expected one with photos")
    paths, known, files = sorted(_paths(folder)), {file.path: file for file in before}, []
    if not paths:
        raise ConfigError(f"{folder} has no photos: expected files that end with {', '.join(ENDINGS)}")
    for done, path in enumerate(paths, 1):
        try:
            stat = (folder / path).stat()
            seen = known.get(path)
            if seen and seen.sha256 and (seen.bytes, seen.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                digest = seen.sha256
            else:
                digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
            files.append(File(path, digest, stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            files.append(File(path, "", 0, 0, fault=error.strerror or str(error)))
        progress("files", done, len(paths))
    return files


def changes(before: Sequence[File], now: Sequence[File]) -> Changes:
    """Compare two lists of files. A photo moved where its content had another path, which is gone."""
    old, new = ({file.path: file.sha256 for file in files} for files in (before, now))
    gone = Counter(old[path] for path in old.keys() - new.keys())
    added = Counter(new[path] for path in new.keys() - old.keys())
    moved, both = (gone & added).total(), old.keys() & new.keys()
    same = sum(old[path] == new[path] for path in both)
    return Changes(added.total() - moved, len(both) - same, moved, gone.total() - moved, same)


def _paths(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()
