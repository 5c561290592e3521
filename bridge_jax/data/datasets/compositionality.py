"""The base of the benchmarks that ask whether a true caption is told from one that is wrong in a detail.

An item is one photo, or two, each with captions that are true of it and captions that are false. A record is a photo
with the captions of all its items as statements. Those of an item share its `name`; where it has two photos, a caption
has the same `sentence` with both. An item whose caption cannot be used is skipped and listed.
"""

import abc
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data import text
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.datasets.raw_files import Packed
from bridge_jax.data.questions import JUDGEMENTS, Question

Captions = tuple[tuple[str, bool], ...]  # (caption, whether it is true of the photo)


class Item(NamedTuple):
    """An item of a file. `name`: `KIND/ID`, or `KIND/SET/PAIR/ID` where the benchmark counts pairs and sets too."""

    file: Path
    kind: str
    name: str
    photos: tuple[tuple[Path | Packed, Captions], ...]

    @property
    def fault(self) -> str:
        """Return why it cannot be used, or an empty string."""
        faults = (text.fault(caption) for _, captions in self.photos for caption, _ in captions)
        return next(filter(None, faults), "")


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the photos of the items. A subclass reads its official files. The one split is `test`."""

    STATEMENTS = True

    @classmethod
    @abc.abstractmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        """Yield the items of a raw folder; call `refuse` for those not read. Raises ConfigError for another folder."""

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the photos of `test`; call `refuse` for items not read. Raises ConfigError for another folder."""
        ids, said, skipped, last = itertools.count(), {}, [], raw
        for item in cls.items(raw, refuse):
            last = item.file
            if item.fault:
                skipped.append(Photo(item.file, 0, (), fault=f"item {item.name}: {item.fault}"))
                continue
            for path, captions in item.photos:
                here = said.setdefault(path, [])
                for number, (caption, true) in enumerate(captions):
                    sentence = f"{item.name}/{number}" if len(item.photos) > 1 else ""
                    here.append(
                        Question(next(ids), caption, item.kind, (JUDGEMENTS[true],), item.name, sentence=sentence)
                    )
        photos = [Photo(path, number, (), tuple(statements)) for number, (path, statements) in enumerate(said.items())]
        photos += [photo._replace(image_id=len(photos) + number) for number, photo in enumerate(skipped)]
        photo_builder.check({"test": photos}, last, refuse)
        return {"test": photos}


def crossed(photos: Sequence[Path | Packed], captions: Sequence[str]) -> tuple[tuple[Path | Packed, Captions], ...]:
    """Return the photos of an item with the captions of all: true of each is the one at its own place."""
    return tuple(
        (photo, tuple((caption, place == own) for place, caption in enumerate(captions)))
        for own, photo in enumerate(photos)
    )


def inside(folder: Path, name: str) -> Path:
    """Return the path of a photo that a file names. Raises ValueError where it leaves the folder."""
    if photo_builder.leaves(name):
        raise ValueError(f"the photo {name!r} leaves the folder; expected a name in {folder.name}/")
    return folder / name


def files(folder: Path, pattern: str, homepage: str) -> list[Path]:
    """Return the official files of a folder. Raises ConfigError where there are none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise ConfigError(f"--raw_dir: no {folder.name}/{pattern} in {folder.parent}; fetch them from {homepage}")
    return found


def folder_of(raw: Path, name: str, photos: str) -> Path:
    """Return the folder of photos. Raises ConfigError where it is missing."""
    if not (raw / name).is_dir():
        raise ConfigError(f"--raw_dir: no image folder {name}/ in {raw}; put {photos} there")
    return raw / name


def rows(file: Path, benchmark: str) -> list[tuple[str, Any]]:
    """Return the items of a JSON file with their ids: a map, or a list of items with an `id` or else in their order.

    Raises ConfigError for a file of another kind.
    """
    try:
        content = as_json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
        if isinstance(content, dict):
            found = [(str(number), row) for number, row in content.items()]
        else:
            found = [
                (str(row["id"] if isinstance(row, dict) and "id" in row else number), row)
                for number, row in enumerate(content)
            ]
        if odd := next((row for _, row in found if not isinstance(row, (dict, list))), None):
            raise TypeError(f"an item {odd!r:.40}")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is no file of {benchmark}: expected JSON with items by their id ({error!r})"
        ) from error
    if len(dict(found)) < len(found):
        raise ConfigError(f"{file}: two items have one id; fetch the file again")
    return found
