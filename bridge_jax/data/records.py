"""Read the records of a prepared data set by index.

A split is named as it was prepared, or as a part of it in Python's notation: `val[0::2]` are the records 0, 2, 4, ...
and `train[:1000]` the first thousand.
"""

import bisect
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bridge_jax import config
from bridge_jax.config import evaluators
from bridge_jax.data import image, prepared, text
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.questions import Question

Record = Mapping[str, Any]
_PART = re.compile(r"(?P<name>\w+)\[(?P<first>-?\d*):(?P<end>-?\d*)(:(?P<step>[1-9]\d*)?)?\]")
_HASHED_BYTES = 1 << 16  # read from each end of a shard for the fingerprint


class Split(Sequence[Record]):
    """The records of one prepared split, by index: image bytes, python strings and ints. Thread-safe and picklable.

    A record whose bytes have changed since they were written raises BrokenError. A byte that is not UTF-8 becomes
    U+FFFD.
    """

    def __init__(
        self, source: Sequence[Mapping[str, Any]], pictures: int = 1, frames: int = 1, part: slice = slice(None)
    ):
        self._source, self._rows = source, range(len(source))[part]
        self.pictures = pictures  # in a record
        self.frames = frames  # pictures of one video, which the captions describe; 1: no video

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            raw = self._source[self._rows[int(index)]]
        except RuntimeError as error:  # array_record hashes every record
            if "Corrupted" not in str(error):
                raise
            raise BrokenError(f"a damaged record: {' '.join(str(error).split())}") from error
        record: dict[str, Any] = {"image": raw["image"], "image_id": int(raw["image_id"])}
        for name in ("filename", "scene"):
            record[name] = raw[name].decode(errors="replace")
        for name in ("captions", "caption_kinds", "wrong_captions"):
            record[name] = [caption.decode(errors="replace") for caption in raw[name]]
        if "wrong_caption_kinds" in raw:
            record["wrong_caption_kinds"] = [kind.decode(errors="replace") for kind in raw["wrong_caption_kinds"]]
        record |= {name: raw[name] for name in ("second_image", "later_frames") if name in raw}
        for name in ("questions", "statements"):
            record[name] = [Question.from_json(text.decode(errors="replace")) for text in raw.get(name, ())]
        return record


class Joined(Sequence[Record]):
    """The records of several data sets, one set after the other; `sizes` holds the number of records of each.

    Two data sets may number their pictures alike, so picture i of the k-th of K sets gets the id i K + k.
    """

    def __init__(self, splits: Sequence[Sequence[Record]]):
        self._splits, self.sizes = splits, tuple(map(len, splits))
        self._ends = list(itertools.accumulate(self.sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        which = bisect.bisect_right(self._ends, int(index))
        record = self._splits[which][int(index) - self._ends[which] + self.sizes[which]]
        return {**record, "image_id": record["image_id"] * len(self.sizes) + which}


def readable(records: Sequence[Record]) -> Iterator[Record | None]:
    """Yield every record in order, None in place of a damaged one."""
    for index in range(len(records)):
        try:
            yield records[index]
        except BrokenError:
            yield None


def open_split(data: config.Data, split: str) -> Split:
    """Return the records of `split` in the order they were prepared.

    Raises ConfigError where the data set is not prepared (naming the command to run), has no such split, or no record
    in that part of it.
    """
    name, part = part_of(split)
    records = _records(_builder(data, split), name, part)
    if not len(records):
        raise config.ConfigError(f"config.data: {split!r} of {data.dataset!r} holds no record; widen the part")
    return records


def part_of(split: str) -> tuple[str, slice]:
    """Return the name of the prepared split and the part of it that `split` means."""
    if (found := _PART.fullmatch(split)) is None:
        return split, slice(None)
    return found["name"], slice(*(int(found[key]) if found[key] else None for key in ("first", "end", "step")))


def has_split(data: config.Data, split: str) -> bool:
    """Return whether a data set has `split`. Raises ConfigError where it is not prepared."""
    return part_of(split)[0] in tfds.builder_from_directory(prepared.prepared_folder(data)).info.splits


def open_training(data: config.Data) -> Split | Joined:
    """Return the training records of `data.mixture`, or of `data.dataset`. Raises ConfigError as `open_split`."""
    if not data.mixture:
        return open_split(data, data.train_split)
    return Joined([open_split(dataclasses.replace(data, dataset=name), data.train_split) for name, _ in data.mixture])


def open_splits(folder: Path) -> dict[str, Split]:
    """Return the records of every split of a prepared folder."""
    builder = tfds.builder_from_directory(folder)
    return {split: _records(builder, split) for split in builder.info.splits}


def fingerprint(data: config.Data, split: str) -> str:
    """Return a hash of the prepared split, equal wherever the same files lie, another with other images or captions.

    It is made of version, shard names, sizes and both ends of every shard (128 KB are read from each). A set of tars
    has a hash of its ids, pictures and captions in its metadata, which stands in the place of its files.
    """
    builder = _builder(data, split)
    digest = hashlib.sha256(f"{data.dataset}/{split}/{builder.version}".encode())
    metadata = builder.info.metadata or {}
    if "fingerprint" in metadata:
        digest.update(metadata["fingerprint"][part_of(split)[0]].encode())
        return digest.hexdigest()
    for path in builder.info.splits[part_of(split)[0]].filepaths:
        size = path.stat().length
        digest.update(f"{path.name}/{size}".encode())
        with path.open("rb") as shard:
            digest.update(shard.read(_HASHED_BYTES))
            shard.seek(max(0, size - _HASHED_BYTES))
            digest.update(shard.read(_HASHED_BYTES))
    return digest.hexdigest()


def training_fingerprint(data: config.Data) -> str:
    """Return a hash of the records that a run trains on, in their order. Raises ConfigError as `open_split`."""
    sources = [dataclasses.replace(data, dataset=name) for name, _ in data.mixture] or [data]
    parts = [fingerprint(source, data.train_split) for source in sources]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def run_fingerprint(cfg: config.Config) -> str:
    """Return a hash of the data that a run reads: its splits, and the vocabulary if that is a file of its own."""
    data = cfg.data
    scored = {split for name in cfg.evals for split in evaluators.settings(cfg, name).splits}
    parts = [training_fingerprint(data)]
    parts += [fingerprint(data, split) for split in sorted({data.eval_split, *scored})]
    if data.vocabulary:
        parts.append(text.load(data, cfg.text).fingerprint)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


# `builder` is Any, as tfds hides the signature of as_data_source behind a decorator.
def _records(builder: Any, split: str, part: slice = slice(None)) -> Split:
    features = builder.info.features
    images = [name for name in ("image", "second_image") if name in features]
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    later = features["later_frames"].shape[0] if "later_frames" in features else 0
    source = builder.as_data_source(split, decoders=decoders)
    return Split(source, pictures=len(images) + later, frames=1 + later, part=part)


def _builder(data: config.Data, split: str) -> tfds.core.DatasetBuilder:
    builder = tfds.builder_from_directory(prepared.prepared_folder(data))
    name, _ = part_of(split)
    if name not in builder.info.splits:
        raise config.ConfigError(
            f"config.data: data set {data.dataset!r} has no split {split!r}; "
            f"{config.nearest(name, builder.info.splits)} (--split, config.data.train_split, config.data.eval_split "
            "or config.evals.NAME.splits asks for it)"
        )
    return builder


def texts(record: Record) -> list[str]:
    """Return the texts of a record: its captions, then its questions, then its statements."""
    return [*record["captions"], *(question.text for question in questions(record))]


def questions(record: Record) -> list[Question]:
    """Return the questions and then the statements of a record."""
    return [*record["questions"], *record["statements"]]


def pictures(record: Record, count: int | None = None) -> list[bytes]:
    """Return the first `count` pictures of a record (None: all), encoded; frames of a video in their order."""
    second = [record["second_image"]] if "second_image" in record else []
    return [record["image"], *second, *record.get("later_frames", ())][:count]


def drawn_captions(record: Record, kinds: Sequence[str], *, source: str = "captions") -> list[int]:
    """Return the positions, among the texts of a record, of those that a stage draws from.

    `source` is "captions", "questions" or "statements"; `kinds` restricts them to those kinds (empty: all kinds).
    Raises ConfigError for a record that has none.
    """
    text_kinds, first = list(record["caption_kinds"]), 0
    if source != "captions":
        first = len(text_kinds) + (len(record["questions"]) if source == "statements" else 0)
        text_kinds = [question.kind for question in record[source]]
    positions = [first + i for i, kind in enumerate(text_kinds) if not kinds or kind in kinds]
    if not positions:
        raise config.ConfigError(
            f"stage caption_kinds {tuple(kinds)}: {record['filename']} has only {sorted(set(text_kinds))}"
            f"{f' among its {source}' if source != 'captions' else ''}"
        )
    return positions


def caption_weights(
    record: Record, positions: Sequence[int], kinds: Sequence[str], shares: Sequence[float]
) -> np.ndarray | None:
    """Return how likely each of `positions` (`drawn_captions`) is drawn; None: all alike.

    Each of `kinds` has its share, spread over its texts. The kinds that a record lacks leave theirs to the others.
    """
    if not shares:
        return None
    of_texts = [*record["caption_kinds"], *(question.kind for question in questions(record))]
    found = [of_texts[position] for position in positions]
    weights = np.array([shares[list(kinds).index(kind)] / found.count(kind) for kind in found])
    return weights / weights.sum()


def broken_part(records: Sequence[Record], index: int, caption: int) -> tuple[str, str, float]:
    """Return file name, fault and share of a record's broken part: a caption by its number, or -1 for the rest.

    The share is 1 over the number of texts for a caption, and 1 for a picture or for the whole record.
    """
    try:
        record = records[index]
    except BrokenError as error:
        return f"record {index}", str(error), 1.0
    if caption < 0:
        faults = [image.fault(encoded) for encoded in pictures(record)]
        return record["filename"], next(filter(None, faults), "its picture cannot be read"), 1.0
    lines = texts(record)
    place = f"number {caption + 1} of {len(lines)}"
    return record["filename"], f"{text.fault(lines[caption])} ({place})", 1 / len(lines)
