"""Take pictures and captions that training is better without, and count what each filter took.

    sieve = Sieve(Filters(min_side_px=64, max_words=40))
    judged = sieve.judge(Photos(captions, sizes, hashes, hashed))       the photos of one source, in order
    judged.kept, judged.captions, judged.took

Filters take from the split `train` alone: what a model is measured on stays as it is. A picture counts for the first
filter that takes it, in the order of COUNTED. One whose size or hash is unknown, as it cannot be read, is left to the
preparation, which lists it. A source is a tar, or a folder with a list.
"""

import collections
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

from bridge_jax.config import ConfigError
from bridge_jax.data import image
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.languages import Others
from bridge_jax.data.near_duplicates import NearDuplicates
from bridge_jax.data.perceptual_hash import perceptual_hash

KEY = "filters"  # in the metadata of a prepared data set


class Filters(NamedTuple):
    """Say what to take; 0, False or empty: nothing. The flags of `tools.prepare_data` have the same names."""

    min_side_px: int = 0  # the shorter side of a picture, as shown
    max_aspect: float = 0.0  # longer side over shorter side
    min_words: int = 0  # of a caption: its parts between spaces
    max_words: int = 0
    languages: str = ""  # to keep, by their ISO 639 codes with commas between
    max_caption_photos: int = 0  # of a source that share a caption, capitals and spaces aside
    drop_near_duplicates: bool = False

    @property
    def on(self) -> bool:
        """Whether there is anything to take."""
        return bool(self.names)

    @property
    def names(self) -> list[str]:
        """The names of what is asked for."""
        return [name for name, value in self._asdict().items() if value]

    @property
    def look(self) -> str:
        """Return what a filter has to know of each picture: nothing, its "size", or size and "hash"."""
        return "" if not self.on else "hash" if self.drop_near_duplicates else "size"

    def metadata(self, took: Mapping[str, int]) -> dict[str, Any]:
        """Return the metadata of a data set: the filters that were on, and what each took; nothing without filters."""
        if not self.on:
            return {}
        on = {name: getattr(self, name) for name in self.names}
        counts = {name: took.get(name, 0) for name, (by, *_) in COUNTED.items() if on.keys() & set(by.split())}
        return {KEY: {**on, "took": counts}}

    def check(self) -> None:
        """Raise ConfigError where a setting can keep nothing, or a language is not known."""
        if self.max_aspect and self.max_aspect < 1:
            raise ConfigError(
                f"--max_aspect is {self.max_aspect:g}; expected at least 1, the longer side over the shorter"
            )
        if self.max_words and self.max_words < self.min_words:
            raise ConfigError(f"--max_words is {self.max_words}; expected at least --min_words, {self.min_words}")
        if self.languages:
            Others(self.languages)


# Name of a count -> the filters of which one is on, what was taken (one of it), and which.
COUNTED = {
    "small": ("min_side_px", "picture", "with a side under {min_side_px} px"),
    "narrow": ("max_aspect", "picture", "of an aspect ratio over {max_aspect:g}"),
    "few_words": ("min_words", "caption", "under {min_words} words"),
    "many_words": ("max_words", "caption", "over {max_words} words"),
    "other_language": ("languages", "caption", "not in {languages}"),
    "repeated": ("max_caption_photos", "caption", "that more than {max_caption_photos} photos share"),
    "no_caption_left": ("min_words max_words languages max_caption_photos", "picture", "without another caption"),
    "near_duplicate": ("drop_near_duplicates", "near-duplicate picture", ""),
}


def took_all(count: int) -> ConfigError:
    """Return the error of filters that leave none of the `count` pictures of train."""
    return ConfigError(f"the filters take all {count} pictures of train; expected some to be left: loosen them")


class Look(NamedTuple):
    """Width and height of a picture as shown (0: it cannot be read), and its hash where that is known."""

    width: int = 0
    height: int = 0
    hash: int | None = None


class Photos(NamedTuple):
    """The photos of a source in their order."""

    captions: Sequence[tuple[str, ...]]
    sizes: Int[np.ndarray, "n 2"]  # 0: it cannot be read
    hashes: UInt64[np.ndarray, "n"]
    hashed: Bool[np.ndarray, "n"]  # whether there is a hash


class Judged(NamedTuple):
    """Which photos are kept, the captions left of those that lost some, and what each filter took."""

    kept: Bool[np.ndarray, "n"]
    captions: dict[int, tuple[str, ...]]
    took: collections.Counter[str]  # name in COUNTED -> pictures or captions


def look(encoded: bytes, kind: str) -> Look:
    """Return what is to be known of a picture (`Filters.look`)."""
    try:
        width, height = image.size(encoded)
        return Look(width, height, int(perceptual_hash(encoded)) if kind == "hash" else None)
    except BrokenError:
        return Look()


def photos(captions: Sequence[tuple[str, ...]], looks: Sequence[Look]) -> Photos:
    """Return photos with what is known of them."""
    sizes = np.array([(one.width, one.height) for one in looks], np.int64).reshape(-1, 2)
    hashes = np.array([one.hash or 0 for one in looks], np.uint64)
    return Photos(captions, sizes, hashes, np.array([one.hash is not None for one in looks], bool))


class Sieve:
    """Judge source after source. Near duplicates are looked for in all sources that were judged before, too."""

    def __init__(self, filters: Filters):
        """Raises ConfigError where a language is not known (`Others`)."""
        self._filters, self._seen = filters, NearDuplicates()
        self._others = Others(filters.languages) if filters.languages else None

    def judge(self, photos: Photos) -> Judged:
        """Judge the photos of one source, all of train."""
        filters, took = self._filters, collections.Counter()
        kept = np.ones(len(photos.captions), bool)
        shorter, longer = photos.sizes.min(axis=1), photos.sizes.max(axis=1)
        small = (shorter > 0) & (shorter < filters.min_side_px)
        narrow = (shorter > 0) & (longer > filters.max_aspect * shorter) & bool(filters.max_aspect)
        for name, taken in (("small", small), ("narrow", narrow)):
            took[name] += int((kept & taken).sum())
            kept &= ~taken
        captions = {}
        repeated = self._repeated(photos.captions)
        for row in np.flatnonzero(kept).tolist():
            by = [self._takes(caption, repeated) for caption in photos.captions[row]]
            took.update(filter(None, by))
            left = tuple(one for one, taken in zip(photos.captions[row], by, strict=True) if not taken)
            if len(left) < len(photos.captions[row]):
                captions[row] = left
                if not left:
                    took["no_caption_left"] += 1
                    kept[row] = False
        if filters.drop_near_duplicates:
            rows = np.flatnonzero(kept & photos.hashed)
            kept[rows] = self._seen.add(photos.hashes[rows])
            took["near_duplicate"] += len(rows) - int(kept[rows].sum())
        return Judged(kept, {row: left for row, left in captions.items() if kept[row]}, took)

    def _repeated(self, captions: Sequence[tuple[str, ...]]) -> set[str]:
        """Return the captions, in the form of `_plain`, that too many photos share."""
        if not (most := self._filters.max_caption_photos):
            return set()
        counts = collections.Counter(one for said in captions for one in {_plain(caption) for caption in said})
        return {caption for caption, count in counts.items() if count > most}

    def _takes(self, caption: str, repeated: set[str]) -> str:
        """Return the name of the count of the first filter that takes a caption, or nothing."""
        words, filters = len(caption.split()), self._filters
        if words < filters.min_words:
            return "few_words"
        if words > filters.max_words > 0:
            return "many_words"
        if self._others and self._others.holds(caption):
            return "other_language"
        return "repeated" if repeated and _plain(caption) in repeated else ""


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split())


def filtered(listed: Sequence[Photo], filters: Filters, workers: int) -> tuple[list[Photo], collections.Counter[str]]:
    """Return the photos of a list that filters leave, with the captions that they leave, and what each filter took.

    The pictures are read in `workers` threads. Photos with a fault stay, to be listed. Raises ConfigError where no
    other one does.
    """
    whole = [photo for photo in listed if not photo.fault]

    def look_at(photo: Photo) -> Look:
        try:
            return look(photo.path.read_bytes(), filters.look)
        except (OSError, ValueError):  # ValueError: no file can have such a name
            return Look()

    with ThreadPoolExecutor(workers) as pool:
        looks = list(pool.map(look_at, whole))
    judged = Sieve(filters).judge(photos([photo.captions for photo in whole], looks))
    if whole and not judged.kept.any():
        raise took_all(len(whole))
    left = [
        photo._replace(captions=judged.captions[row]) if row in judged.captions else photo
        for row, photo in enumerate(whole)
        if judged.kept[row]
    ]
    return left + [photo for photo in listed if photo.fault], judged.took


def summary(metadata: Mapping[str, Any]) -> str:
    """Return the end of a line that says what the filters took, from metadata; empty where there were none."""
    if KEY not in metadata:
        return ""
    told, taken = metadata[KEY], []
    for name, count in told["took"].items():
        _, what, which = COUNTED[name]
        taken.append(f"{count:,} {what}{'s' * (count != 1)} {which.format_map(told)}".rstrip())
    return f"; filters took: {', '.join(taken)}"


def check_same(metadata: Mapping[str, Any], filters: Filters, where: Any) -> None:
    """Raise ConfigError where the data set in `where` was prepared with other filters than those asked for."""
    there = {name: value for name, value in metadata.get(KEY, {}).items() if name != "took"}
    asked = {name: getattr(filters, name) for name in filters.names}
    if asked and asked != there:
        names = ", ".join(f"--{name}" for name in Filters._fields if asked.get(name) != there.get(name))
        told = ", ".join(f"{name} {value}" for name, value in there.items()) or "no filter"
        raise ConfigError(f"{names}: {where} was prepared with {told}; delete the folder to prepare it anew")
