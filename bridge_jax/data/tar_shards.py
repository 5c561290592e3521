"""Write one shard of a prepared data set from the index of one tar.

    write(Task(...))       folder/cc3m-train.array_record-00007, and beside it a report of what it holds

A shard is whole where it has its name; its report was there before. It depends on the task alone, so it has the same
bytes whichever process writes it, and when.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from bridge_jax.config import as_json
from bridge_jax.data import tar_index
from bridge_jax.data.datasets import photo_records
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.encode import Stored
from bridge_jax.data.held_out import TRAIN, Copy, HeldOut

UNFINISHED = "unfinished"  # folder in that of the records, while they are being written
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"  # of the names: others may follow, so none says how many
MOST_SHARDS = 99_999  # of a split: more would need names of more digits
_Example: Any = vars(tf_example_pb2)["Example"]  # protobuf makes it at the import
_OPTIONS = "group_size:1,uncompressed"  # read in half the time of compressed ones; pictures are compressed already


class Task(NamedTuple):
    """Describe a shard to write: samples of one tar that are in one split. Another process can get it."""

    raw: str  # the raw folder
    folder: str  # of the records
    dataset: str
    tar: str  # its path in the raw folder
    split: str
    number: int  # of the shard in its split
    rows: np.ndarray  # int64 [samples], of the index
    ids: np.ndarray  # int64 [samples]
    stored: Stored
    held_out: HeldOut | None  # pictures to leave out
    captions: Mapping[int, tuple[str, ...]]  # row of the index -> the captions that filters left, where they took some

    @property
    def path(self) -> Path:
        """The file of the shard."""
        return Path(self.folder, f"{self.dataset}-{self.split}.array_record-{self.number:05d}")

    @property
    def report(self) -> Path:
        """The file of its report."""
        return Path(self.folder, UNFINISHED, f"{self.split}-{self.number:05d}.json")


class Report(NamedTuple):
    """Count the content of a shard, and list all that was left out of it."""

    tar: str
    split: str
    photos: int  # samples of the task
    examples: int  # records of them
    bytes: int  # of the file
    sha256: str  # of ids, pictures and captions
    skipped: tuple[tuple[str, float], ...]  # lines, each with its share of a picture
    copies: tuple[tuple[str, Copy], ...]  # pictures that are held out

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Report":
        skipped = tuple((line, share) for line, share in told["skipped"])
        copies = tuple((path, Copy(*copy)) for path, copy in told["copies"])
        return cls(**{**told, "skipped": skipped, "copies": copies})


def write(task: Task) -> Report:
    """Write a shard, if it is not there yet, and return its report. Raises ConfigError where the tar has changed."""
    if task.path.is_file() and task.report.is_file():
        return Report.from_json(as_json.loads(task.report.read_text(encoding="utf-8")))
    made = _Made()
    with tar_index.whole(task.path) as fresh:
        writer = ArrayRecordWriter(str(fresh), _OPTIONS)
        for serialized in made.records(task):
            writer.write(serialized)
        writer.close()
        about = task.tar, task.split, len(task.rows), made.examples, fresh.stat().st_size, made.digest.hexdigest()
        report = Report(*about, tuple(made.skipped), tuple(made.copies))
        with tar_index.whole(task.report) as told:
            told.write_text(json.dumps(report._asdict()), encoding="utf-8")
    return report


class _Made:
    """The records of a shard as they are made, one at a time."""

    def __init__(self):
        self.examples, self.digest = 0, hashlib.sha256()
        self.skipped: list[tuple[str, float]] = []
        self.copies: list[tuple[str, Copy]] = []

    def records(self, task: Task) -> Iterator[bytes]:
        """Yield the records that training reads, serialized."""
        held = task.held_out if task.split == TRAIN else None
        samples = tar_index.read(index(task.folder, task.tar), Path(task.raw, task.tar), task.rows)
        for image_id, row, sample in zip(task.ids.tolist(), task.rows.tolist(), samples, strict=True):
            photo = Photo(sample.path, image_id, task.captions.get(row, sample.captions))
            found = photo_records.read(photo, task.stored, held)
            if found.copy:
                self.copies.append((str(photo.path), found.copy))
                continue
            usable, faults = photo_records.usable(photo)
            if found.fault:
                faults = [found.fault]
            share = 1.0 if found.fault else 1 / max(1, len(photo.captions))
            self.skipped += [(f"{photo.path}: {fault}", share) for fault in faults]
            if usable.captions and not found.fault:
                self.examples += 1
                picture = sample.path.sha256 if not task.stored.px else hashlib.sha256(found.encoded[0]).digest()
                self.digest.update(picture + repr((image_id, usable.captions)).encode(errors="backslashreplace"))
                yield serialize(photo_records.record(usable, found.encoded[0]))


def serialize(record: Mapping[str, Any]) -> bytes:
    """Return a record of text, bytes and whole numbers as tfds stores it (a tf.Example), four times as fast as tfds.

    The fields come in the order of their names: their order in a map of protobuf differs from process to process.
    """
    example = _Example()
    for name, value in record.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            values = [value] if isinstance(value, str | bytes) else value
            feature.bytes_list.value.extend(one if isinstance(one, bytes) else _utf8(one) for one in values)
    return example.SerializeToString(deterministic=True)


def _utf8(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # the name of a picture may end within a character


def index(folder: str | Path, tar: str) -> Path:
    """Return the file of a tar's index in the folder of the records."""
    return Path(folder, "index", f"{tar}.parquet")
