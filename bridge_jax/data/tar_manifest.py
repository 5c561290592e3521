"""Keep the content of all shards of a set of tars in one file, and merge it into the files that training opens.

manifest = read(folder)             Manifest({}, ()) where there is none
finish(folder, builder, manifest, held_out)
"""

import collections
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data import fetch_stats, prepared
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.encode import Stored
from bridge_jax.data.filters import Filters
from bridge_jax.data.held_out import TRAIN, Copy, HeldOut
from bridge_jax.data.tar_index import whole
from bridge_jax.data.tar_shards import TEMPLATE, UNFINISHED, Report

FILE = "manifest.json"
ADDED = {"format": Stored().format, **Filters()._asdict()}  # settings that older manifests lack, as they were then
_INFO = "dataset_info.json"  # a set that has it is prepared


class Source(NamedTuple):
    """A tar whose shards are all whole."""

    tar: str
    bytes: int
    split: str  # that its name says
    faults: tuple[str, ...]  # of samples that have no place in a shard
    shards: tuple[Report, ...]
    took: Mapping[str, int]  # what each filter took of it
    fetched: Mapping[str, int] = {}  # status by img2dataset -> pictures

    def skipped(self) -> Iterator[tuple[str, float]]:
        """Yield the lines of what was left out, each with its share of a picture."""
        yield from ((fault, 1.0) for fault in self.faults)
        for shard in self.shards:
            yield from shard.skipped


class Manifest(NamedTuple):
    """The tars that are prepared, in the order of their shards, and the settings that all were prepared with."""

    settings: Mapping[str, Any]
    sources: tuple[Source, ...]

    def shards(self, split: str) -> list[Report]:
        """Return the shards of a split in the order of their numbers."""
        return [shard for source in self.sources for shard in source.shards if shard.split == split]

    def splits(self) -> list[str]:
        """Return the splits that have shards."""
        found = {shard.split for source in self.sources for shard in source.shards}
        return [split for split in photo_builder.SPLITS if split in found]

    def photos(self) -> int:
        """Return the number of samples of all tars, those left out included."""
        return sum(len(source.faults) + sum(shard.photos for shard in source.shards) for source in self.sources)

    def skipped(self) -> Iterator[tuple[str, float]]:
        """Yield the lines of what was left out, each with its share of a picture."""
        for source in self.sources:
            yield from source.skipped()

    def took(self) -> collections.Counter[str]:
        """Return what each filter took of all tars."""
        return sum((collections.Counter(source.took) for source in self.sources), collections.Counter())

    def fetched(self) -> collections.Counter[str]:
        """Return status by img2dataset -> pictures of all tars."""
        return sum((collections.Counter(source.fetched) for source in self.sources), collections.Counter())

    def copies(self) -> list[tuple[Path, Copy]]:
        """Return the pictures that are held out."""
        return [(Path(path), copy) for source in self.sources for shard in source.shards for path, copy in shard.copies]


def read(folder: Path) -> Manifest:
    """Return the manifest of a prepared folder."""
    file = folder / FILE
    if not file.is_file():
        return Manifest({}, ())
    told = as_json.loads(file.read_text(encoding="utf-8"))
    sources = [
        Source(
            one["tar"],
            one["bytes"],
            one["split"],
            tuple(one["faults"]),
            tuple(map(Report.from_json, one["shards"])),
            one.get("took", {}),
            one.get("fetched", {}),
        )
        for one in told["sources"]
    ]
    return Manifest(ADDED | told["settings"], tuple(sources))


def finish(folder: Path, builder: type[photo_builder.Builder], manifest: Manifest, held_out: HeldOut | None) -> None:
    """Write the manifest and the files that are merged from it; the one that makes the set prepared comes last.

    Raises ConfigError, before anything is written, where nothing is left of a split.
    """
    copies, fresh = manifest.copies(), folder / UNFINISHED / "info"
    photos = sum(shard.photos for shard in manifest.shards(TRAIN))
    if copies and len(copies) == photos:
        raise ConfigError(
            f"--held_out: all {len(copies)} pictures of {TRAIN} are held out, so none is left; name fewer data sets"
        )
    for split in manifest.splits():
        if not sum(shard.examples for shard in manifest.shards(split)):
            raise ConfigError(f"--raw_dir: no picture of the split {split!r} is left; give it one or leave it out")
    fresh.mkdir(parents=True, exist_ok=True)
    info = _info(folder, builder, manifest)
    if held_out is not None and info.metadata is not None:
        info.metadata.update(held_out.save(copies, fresh))
    if lines := [line for line, _ in manifest.skipped()]:
        text = "\n".join(lines) + "\n"
        (fresh / prepared.SKIPPED).write_text(text, encoding="utf-8", errors="backslashreplace")
        logging.warning("%d pictures or captions skipped, listed in %s", len(lines), prepared.SKIPPED)
    info.write_to_directory(fresh)
    sources = [one._asdict() | {"shards": [shard._asdict() for shard in one.shards]} for one in manifest.sources]
    (fresh / FILE).write_text(json.dumps({"settings": manifest.settings, "sources": sources}), encoding="utf-8")
    for file in sorted(fresh.iterdir(), key=lambda file: (file.name == _INFO, file.name)):
        with whole(folder / file.name) as place:
            place.write_bytes(file.read_bytes())


def _info(folder: Path, builder: type[photo_builder.Builder], manifest: Manifest) -> tfds.core.DatasetInfo:
    """Return the description by which tfds opens the records."""
    stored = Stored(**{name: manifest.settings[name] for name in Stored._fields})
    filtered = Filters(**{name: manifest.settings[name] for name in Filters._fields})
    place: Any = folder  # tfds makes a path of etils of it
    template = tfds.core.ShardedFileTemplate(
        data_dir=place, template=TEMPLATE, dataset_name=builder.name, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.examples for shard in manifest.shards(split)],
            num_bytes=sum(shard.bytes for shard in manifest.shards(split)),
            filename_template=template,
        )
        for split in manifest.splits()
    ]
    fingerprints = {
        split: hashlib.sha256("".join(shard.sha256 for shard in manifest.shards(split)).encode()).hexdigest()
        for split in manifest.splits()
    }
    identity = tfds.core.DatasetIdentity(
        builder.name, tfds.core.Version(str(builder.VERSION)), str(folder), builder.__module__
    )
    info = builder.about(
        identity,
        prepared.features(),
        {
            "fingerprint": fingerprints,
            **stored.metadata,
            **filtered.metadata(manifest.took()),
            **({fetch_stats.KEY: fetched} if (fetched := manifest.fetched()) else {}),
        },
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict(splits))
    return info
