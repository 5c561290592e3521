"""One's own photos: a folder with a list of captions, with tables or tars (`pairs`), or a text beside each photo.

A text beside a photo has its name, `a.jpg` and `a.txt`, and holds a caption a line. A list may have a column that names
the split of each photo, or there is a list for each split. Without either, the split is drawn from a hash of the
photo's bytes: it stays the same when photos are added or renamed, and copies of a photo are in one split.
"""

import hashlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import pairs, photo_builder, raw_files
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.datasets.pairs import Pair
from bridge_jax.data.datasets.photo_builder import SPLITS, Refuse, Tars
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.datasets.raw_files import SUFFIXES


class Options(NamedTuple):
    """The list and its columns, and the shares of the photos for val and test where nothing names their split."""

    columns: Columns = Columns()
    val_share: float = 0.1
    test_share: float = 0.1
    list: str = ""  # the list to read, within the folder; empty: the only one


DEFAULTS = Options()


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: a list of any name, tars, or a text beside each photo."""

    name = "folder"
    DESCRIPTION = "Photos of one's own, with captions."
    HOMEPAGE = ""
    CITATION = ""
    FILTERED = True

    def __init__(self, *, options: Options = DEFAULTS, **arguments: Any):
        """Read the folder by `options`. Raises ConfigError (see `survey`)."""
        self._options = options
        super().__init__(**arguments)

    def read(self, raw: Path) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder. Raises ConfigError for the first fault."""
        return self.survey(raw, photo_builder.at_once, self._options)

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse, options: Options = DEFAULTS) -> dict[str, list[Photo]]:
        """Return split -> photos. Raises ConfigError where nothing can be read or a split would be empty."""
        _check_shares(options)
        if options.list or any(pairs.sources(raw)):
            source, found = pairs.find(raw, options.columns, refuse, options.list)
        else:
            source, found = raw, _beside(raw)
        photos: dict[str, list[Photo]] = {split: [] for split in SPLITS}
        skipped: list[Photo] = []
        by_column = False
        for split, photo in pairs.photos_of(found, source, refuse):
            by_column = by_column or bool(split)
            split = pairs.SPLITS.get(split.lower(), split.lower()) or _drawn(photo, options)
            if photo.fault:
                skipped.append(photo)
            elif split in SPLITS:
                photos[split].append(photo)
            else:
                refuse(f"{source}: {photo.path.name} is in split {split!r}; expected one of {', '.join(SPLITS)}")
        photo_builder.check(photos, source, refuse)
        shares = {"train": 1.0, "val": options.val_share, "test": options.test_share}
        for split in [split for split in SPLITS if not photos[split]]:
            if shares[split] and not by_column:
                refuse(f"{source}: no photo falls into {split}; add photos, or change --val_share and --test_share")
            del photos[split]
        next(iter(photos.values()), []).extend(skipped)
        return photos

    @classmethod
    def tars(cls, raw: Path, options: Options = DEFAULTS) -> Tars | None:
        """Return the tars of a raw folder, or None where it holds something else or another list is asked for."""
        _check_shares(options)
        splits = None if options.list else pairs.packed(raw)
        return splits if splits is None else Tars(splits, options.val_share, options.test_share)


def _check_shares(options: Options) -> None:
    if not 0 <= options.val_share + options.test_share < 1:
        raise ConfigError("--val_share and --test_share: expected less than 1 together, so that some is left to train")


def _drawn(photo: Photo, options: Options) -> str:
    """Return the split of a photo by its bytes; one that cannot be read is skipped later, and counts as train."""
    try:
        content = photo.path.read_bytes()
    except (OSError, ValueError):  # ValueError: no file can have such a name
        return "train"
    return photo_builder.drawn_split(hashlib.sha256(content).digest(), options.val_share, options.test_share)


def _beside(raw: Path) -> Iterator[Pair]:
    """Yield every photo below a folder with the lines of the text beside it, in the order of the names."""
    files = sorted(path for path in raw.rglob("*") if not path.name.startswith("."))
    texts = {_key(path): path for path in files if path.suffix.lower() == ".txt"}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            text = texts.get(_key(path))
            lines = [] if text is None else [line.strip() for _, line in raw_files.lines(text)]
            fault = (
                ""
                if lines
                else f"no caption: expected {path.with_suffix('.txt').name} beside it, with a caption a line"
            )
            yield Pair(path, tuple(lines), fault=fault)


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.with_suffix("")))
