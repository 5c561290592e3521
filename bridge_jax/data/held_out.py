"""Recognise the pictures that models are evaluated on, so that training leaves them out.

    held = read(["coco", "flickr30k"], data_dir="data", workers=2)
    held.copy_by_id(391895)     Copy("id", "coco/test/COCO_val2014_000000391895.jpg", 0), or None
    held.copy_by_hash([jpeg])   Copy("hash", "flickr30k/test/1007129816.jpg", 2), or None

A copy is a picture with the same id in COCO, from which several data sets take their photos, or a picture whose
perceptual hash differs in at most MAX_DISTANCE bits.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt64

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared, records
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.perceptual_hash import MAX_DISTANCE, nearest, perceptual_hash

COPIES = "held_out_copies.txt"  # beside the records: the pictures left out, each with the one it copies
KEY = "held_out"  # in the metadata of a prepared data set
TRAIN = "train"  # the split that is not held out
COCO_NUMBERED = ("coco", "vqav2")  # data sets whose image ids are COCO's


class Copy(NamedTuple):
    """A copy of a held-out picture: recognised by `id` or `hash`, the original's name, the bits that differ."""

    by: str
    original: str
    distance: int

    def __str__(self) -> str:
        return f"by {self.by}: {self.original}" + (f", {self.distance} bits differ" if self.by == "hash" else "")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The pictures in the evaluation splits of some data sets. `sizes` holds the number of records of each split."""

    sizes: dict[str, int]
    coco_ids: dict[int, str]  # -> data set, split and file
    hashes: UInt64[np.ndarray, "n"]
    names: Sequence[str]  # one for each hash

    def copy_by_id(self, coco_id: int | None) -> Copy | None:
        """Return the held-out picture with that id in COCO, or None."""
        return Copy("id", self.coco_ids[coco_id], 0) if coco_id in self.coco_ids else None

    def copy_by_hash(self, encoded: Sequence[bytes]) -> Copy | None:
        """Return the held-out picture that one of the encoded pictures looks like, or None. Raises BrokenError."""
        for one in encoded if len(self.hashes) else ():
            index, distance = nearest(self.hashes, perceptual_hash(one))
            if distance <= MAX_DISTANCE:
                return Copy("hash", self.names[index], distance)
        return None

    def save(self, copies: Sequence[tuple[Path, Copy]], folder: Path) -> dict[str, Any]:
        """Write the copies left out to COPIES of a prepared folder, and return their counts for its metadata."""
        lines = "".join(f"{path}: {copy}\n" for path, copy in copies)
        (folder / COPIES).write_text(lines, encoding="utf-8")
        counts = {f"by_{kind}": sum(copy.by == kind for _, copy in copies) for kind in ("id", "hash")}
        return {KEY: counts | {"max_distance": MAX_DISTANCE, "splits": self.sizes}}


def summary(metadata: Mapping[str, Any]) -> str:
    """Return the end of a line that counts the copies left out, from metadata; empty where none were looked for."""
    if KEY not in metadata:
        return ""
    copies = metadata[KEY]
    splits = ", ".join(f"{split} {size}" for split, size in copies["splits"].items())
    counts = f"{copies['by_id']} by id and {copies['by_hash']} by hash"
    return f"; left out of {TRAIN}: {counts}, copies of pictures in {splits}"


def check(metadata: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Raise ConfigError where `folder` was prepared without holding out all of `names`."""
    splits = metadata[KEY]["splits"] if KEY in metadata else {}
    if missing := sorted(set(names) - {split.partition("/")[0] for split in splits}):
        raise ConfigError(
            f"--held_out: {folder} was prepared without looking for copies of {', '.join(missing)}; delete the "
            "folder to prepare it anew"
        )


def read(names: Sequence[str], data_dir: str, workers: int) -> HeldOut:
    """Return the pictures in all splits but train of prepared data sets, hashed in `workers` threads.

    Damaged records are skipped. Raises ConfigError where a data set is not prepared or has no such split.
    """
    sizes: dict[str, int] = {}
    coco_ids: dict[int, str] = {}
    hashes: list[np.uint64] = []
    labels: list[str] = []
    for name in names:
        folder = prepared.prepared(prepared.builder_class(name, "--held_out"), data_dir, "--held_out")
        splits = {split: members for split, members in records.open_splits(folder).items() if split != TRAIN}
        if not splits:
            raise ConfigError(f"--held_out: data set {name!r} in {folder} has no split but {TRAIN}; leave it out")
        for split, members in splits.items():
            sizes[f"{name}/{split}"] = len(members)
            for label, coco_id, record_hashes in _hashed(f"{name}/{split}", members, workers):
                if name in COCO_NUMBERED:
                    coco_ids.setdefault(coco_id, label)
                hashes += record_hashes
                labels += [label] * len(record_hashes)
    return HeldOut(sizes, coco_ids, np.array(hashes, np.uint64), labels)


def _hashed(where: str, split: records.Split, workers: int) -> list[tuple[str, int, list[np.uint64]]]:
    """Return name, id and hashes of every record."""

    def hash_record(index: int) -> tuple[str, int, list[np.uint64]] | None:
        try:
            record = split[index]
            hashes = [perceptual_hash(encoded) for encoded in records.pictures(record)]
        except BrokenError:
            return None
        return f"{where}/{record['filename']}", record["image_id"], hashes

    with ThreadPoolExecutor(workers) as pool:
        return [hashed for hashed in pool.map(hash_record, range(len(split))) if hashed is not None]
