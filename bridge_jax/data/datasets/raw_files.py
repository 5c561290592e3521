"""Read what a raw folder holds: the kinds of its pictures, the lines of its files, names with accents."""

import abc
import collections
import dataclasses
import functools
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".avif"),
    *(".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".heic", ".heif"),
)


@dataclasses.dataclass(frozen=True)
class Packed(abc.ABC):
    """A picture inside another file. It stands in the place of a photo's path, and has a path's `name` and `parent`."""

    file: Path
    inside: str  # its name there

    @property
    def name(self) -> str:
        return f"{self.file.name}/{self.inside}"

    @property
    def parent(self) -> Path:
        return self.file.parent

    @abc.abstractmethod
    def read_bytes(self) -> bytes:
        """Return the encoded picture. Raises OSError where it is not there."""

    def __str__(self) -> str:
        return f"{self.file}/{self.inside}"


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not empty. Only \\n and \\r end a line: JSON may hold others."""
    with file.open(encoding="utf-8-sig", errors="replace") as text_lines:
        yield from ((number, line) for number, line in enumerate(text_lines, 1) if line.strip())


def located(folder: Path, name: str, refuse: Callable[[str], None]) -> Path:
    """Return the path of a picture, whichever form of its accents the disk has; call `refuse` where it has both."""
    if name.isascii():
        return folder / name
    for part in PurePosixPath(name).parts:
        same = _accented(folder).get(unicodedata.normalize("NFC", part), [part])
        if len(same) > 1:
            refuse(f"{folder}: {part!r} is there twice, with composed and with decomposed accents; remove one")
        folder /= same[0]
    return folder


@functools.lru_cache(maxsize=16)
def _accented(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder that are not ASCII, by their composed form."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for name in os.listdir(folder) if folder.is_dir() else ():
        if not name.isascii():
            names[unicodedata.normalize("NFC", name)].append(name)
    return dict(names)
