"""Find every fault of a data set, raw or prepared, by name, before a run meets it.

    report = examine(raw(builder.survey, Path("DIR")), builder, tokenizer, workers=2)
    report.exit_code, [(finding.kind, finding.count, finding.names) for finding in report.findings]

Things that cannot be used are broken; things that can be used but may surprise are warnings. The code of preparation
and training judges pictures and captions (`image.look`, `text.fault`), the builder's own reader judges annotations. Two
splits share a picture where its bytes are the same; near duplicates are not looked for.
"""

import collections
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from bridge_jax.config import ConfigError
from bridge_jax.data import fetch_stats, image, text
from bridge_jax.data.datasets import photo_builder, photo_records
from bridge_jax.data.held_out import TRAIN
from bridge_jax.data.prepared import SKIPPED
from bridge_jax.data.records import Split, open_splits, pictures, texts
from bridge_jax.types import Progress

BuilderClass = type[tfds.core.ShardBasedBuilder]

BROKEN = {  # kind -> its meaning; in the order of a report
    "annotations": "faults in the annotation files; the preparation refuses them",
    "broken_line": "lines of a list, or samples of a tar, that cannot be used; they are left out",
    "missing_picture": "pictures that cannot be read",
    "damaged_record": "records that cannot be read: prepare the data set anew",
    "oversized_picture": f"pictures of more than {image.MAX_PIXELS / 1e6:.0f} million pixels; they are not decoded",
    "damaged_picture": "files that do not decode to their end: truncated, no pictures, or of more than 8 bits a sample",
    "broken_caption": "captions or questions that cannot be used; they are left out",
    "id_collision": "image ids that several pictures share",
    "same_picture": "pictures with the same bytes in two splits",
}
WARNINGS = {
    "left_out": "pictures and captions that the preparation left out",
    "grey_picture": "greyscale pictures; training gives all three channels the same values",
    "cmyk_picture": "CMYK pictures; training converts them to RGB",
    "profile_picture": "pictures whose colour profile is not sRGB; training converts their colours",
    "broken_profile": "pictures whose colour profile cannot be read; training takes their colours for sRGB",
    "turned_picture": "pictures that EXIF turns or mirrors; training shows them upright, other programs may not",
    "transparent_picture": "pictures that are transparent in places; training shows those white",
    "cut_caption": "captions or questions with too many tokens; training keeps the first and drops the rest",
    "unknown_word": "tokens that the vocabulary lacks; they become [UNK]",
    "not_fetched": "pictures that img2dataset could not fetch, by reason",
    "split_size": "splits whose size differs from the published one",
}


class Finding(NamedTuple):
    """The faults of one kind: their count, the `total` they are a share of (0: not counted), and the name of each.

    The names of unknown words and of reasons come most frequent first, each once.
    """

    kind: str
    count: int
    total: int
    names: list[str]

    @property
    def broken(self) -> bool:
        return self.kind in BROKEN

    @property
    def says(self) -> str:
        """The meaning of the kind."""
        return (BROKEN | WARNINGS)[self.kind]


class Usable(NamedTuple):
    """A picture that can be used, with the captions that can."""

    split: str
    name: str
    captions: tuple[str, ...]


class Report(NamedTuple):
    """All findings, broken ones first; the pictures of each split; the number of captions and questions read.

    `usable` is empty unless it was asked for. A picture of train that another split has too is not in it.
    """

    findings: list[Finding]
    sizes: dict[str, int]
    captions: int
    usable: tuple[Usable, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: nothing found, 1: warnings, 2: broken."""
        return 2 if any(finding.broken for finding in self.findings) else int(bool(self.findings))


class _Item(NamedTuple):
    """A picture and its texts. Where `unread` names a kind of finding, there is no picture and `fault` says why."""

    split: str
    name: str
    image_id: int | None = None
    texts: Sequence[str] = ()
    unread: str = ""
    fault: str = ""
    look: image.Look | None = None
    sha256: bytes = b""


class Source(NamedTuple):
    """A data set to examine: functions that read its pictures, and findings that its files list already."""

    reads: list[Callable[[], list[_Item]]]  # each reads a picture, or all pictures of a record
    sizes: dict[str, int]  # split -> records
    listed: dict[str, list[str]]  # kind -> names
    fetched: collections.Counter[str]  # status by img2dataset -> pictures


def raw(survey: photo_builder.Survey, folder: Path) -> Source:
    """Return the raw data set in `folder` by a builder's `survey`.

    Faults of its annotations become findings; they are not raised.
    """
    faults: list[str] = []
    try:
        splits = survey(folder, faults.append)
    except ConfigError as error:
        splits, faults = {}, [*faults, str(error)]
    reads = [functools.partial(_read_photo, split, photo) for split, photos in splits.items() for photo in photos]
    fetched = fetch_stats.read_all(folder, faults.append)
    return Source(reads, {split: len(photos) for split, photos in splits.items()}, {"annotations": faults}, fetched)


def prepared(folder: Path) -> Source:
    """Return the data set that was prepared in `folder`."""
    splits, skipped = open_splits(folder), folder / SKIPPED
    left_out = skipped.read_text(encoding="utf-8").splitlines() if skipped.is_file() else []
    reads = [
        functools.partial(_read_record, split, records, index)
        for split, records in splits.items()
        for index in range(len(records))
    ]
    fetched = collections.Counter((tfds.builder_from_directory(folder).info.metadata or {}).get(fetch_stats.KEY, {}))
    return Source(reads, {split: len(records) for split, records in splits.items()}, {"left_out": left_out}, fetched)


def _read_photo(split: str, photo: photo_records.Photo) -> list[_Item]:
    if photo.fault:
        return [_Item(split, str(photo.path), unread="broken_line", fault=photo.fault)]
    items = [_Item(split, str(photo.path), photo.image_id, photo.texts)]
    items += [_Item(split, str(path)) for path in photo.paths[1:]]  # the first picture carries the texts of all
    return [_read_file(item, path) for item, path in zip(items, photo.paths, strict=True)]


def _read_file(item: _Item, path: Path) -> _Item:
    try:
        return _looked_at(item, path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        fault = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return item._replace(unread="missing_picture", fault=fault)


def _read_record(split: str, records: Split, index: int) -> list[_Item]:
    try:
        record = records[index]
    except (ConfigError, RuntimeError, ValueError) as error:  # array_record and tfds raise the last two for a cut shard
        fault = " ".join(str(error).split())
        return [_Item(split, f"record {index} of {split}", unread="damaged_record", fault=fault)]
    encoded = pictures(record)
    items = [_Item(split, record["filename"], record["image_id"], texts(record))]
    if records.frames > 1:
        items += [_Item(split, f"frame {n} of {record['filename']}") for n in range(2, len(encoded) + 1)]
    else:
        items += [_Item(split, f"second picture of {record['filename']}") for _ in encoded[1:]]
    return [_looked_at(item, one) for item, one in zip(items, encoded, strict=True)]


def _looked_at(item: _Item, encoded: bytes) -> _Item:
    return item._replace(look=image.look(encoded), sha256=hashlib.sha256(encoded).digest())


def examine(
    source: Source,
    builder: BuilderClass,
    tokenizer: text.Tokenizer | None,
    workers: int,
    progress: Progress = lambda *_: None,
    *,
    list_usable: bool = False,
) -> Report:
    """Read and decode every picture in `workers` threads and return all findings, and what can be used if asked for.

    With a `tokenizer`, captions are compared with its length and words with its vocabulary. `progress` is called as
    ("pictures", done, total).
    """
    photos = builder if issubclass(builder, photo_builder.Builder) else None
    subsets = photos.SUBSETS if photos else {}
    tally = _Tally({part for part, whole in subsets.items() if whole in source.sizes}, tokenizer, list_usable)
    with ThreadPoolExecutor(workers) as pool:
        for done, items in enumerate(pool.map(lambda read: read(), source.reads), 1):
            for item in items:
                tally.take(item)
            progress("pictures", done, len(source.reads))
    names = source.listed | tally.names | tally.twice() | _sizes(source.sizes, photos.PUBLISHED if photos else {})
    counted = {"unknown_word": tally.unknown, "not_fetched": fetch_stats.failures(source.fetched)}
    names |= {kind: [f"{name} ({n})" for name, n in counter.most_common()] for kind, counter in counted.items()}
    counts = {kind: len(faults) for kind, faults in names.items()}
    counts |= {kind: counter.total() for kind, counter in counted.items()}
    totals = dict.fromkeys(BROKEN | WARNINGS, tally.pictures)
    totals |= dict.fromkeys(("annotations", "left_out", "split_size"), 0)
    totals |= {"broken_caption": tally.captions, "cut_caption": tally.captions, "unknown_word": tally.tokens}
    totals["not_fetched"] = source.fetched.total()
    findings = [Finding(kind, counts[kind], totals[kind], names[kind]) for kind in totals if names.get(kind)]
    return Report(findings, source.sizes, tally.captions, tally.cleaned())


def _sizes(sizes: Mapping[str, int], published: Mapping[str, int]) -> dict[str, list[str]]:
    pairs = {split: (sizes.get(split, 0), size) for split, size in published.items()}
    return {"split_size": [f"{split}: {n:,} of {size:,}" for split, (n, size) in pairs.items() if n != size]}


class _Tally:
    """The faults of the pictures so far. By design, the pictures of the splits `inside` are in another split too."""

    def __init__(self, inside: set[str], tokenizer: text.Tokenizer | None, list_usable: bool):
        self.names: dict[str, list[str]] = collections.defaultdict(list)  # kind -> names
        self.unknown: collections.Counter[str] = collections.Counter()
        self.pictures = self.captions = self.tokens = 0
        self._inside, self._tokenizer, self._list_usable = inside, tokenizer, list_usable
        self._usable: list[tuple[Usable, bytes]] = []  # with the hash of the picture
        self._names_by_id: dict[int, list[str]] = collections.defaultdict(list)
        self._names_by_hash: dict[bytes, dict[str, str]] = collections.defaultdict(dict)  # hash -> split -> name

    def take(self, item: _Item) -> None:
        """Count one picture."""
        self.pictures += 1
        apart = item.split not in self._inside
        if item.image_id is not None and apart:
            self._names_by_id[item.image_id].append(f"{item.name} ({item.split})")
        if item.unread:
            self.names[item.unread].append(f"{item.name}: {item.fault}")
        elif (look := item.look) is not None:
            kinds = {
                f"{kind}_picture": getattr(look, kind) for kind in ("grey", "cmyk", "profile", "turned", "transparent")
            }
            for kind, holds in (kinds | {"broken_profile": look.broken_profile}).items():
                if holds:
                    self.names[kind].append(item.name)
            if look.fault:
                kind = "oversized_picture" if look.oversized else "damaged_picture"
                self.names[kind].append(f"{item.name}: {look.fault}")
            elif apart:
                self._names_by_hash[item.sha256].setdefault(item.split, item.name)
        captions = self._take_texts(item)
        if self._list_usable and captions and item.look is not None and not item.look.fault:
            self._usable.append((Usable(item.split, item.name, tuple(captions)), item.sha256))

    def _take_texts(self, item: _Item) -> list[str]:
        """Count the texts of a picture and return those that can be used."""
        self.captions += len(item.texts)
        usable = []
        for number, caption in enumerate(item.texts, 1):
            place = f"number {number} of {len(item.texts)}"
            if fault := text.fault(caption):
                self.names["broken_caption"].append(f"{item.name}: {fault} ({place})")
            else:
                usable.append((place, caption))
        captions = [caption for _, caption in usable]
        measured = self._tokenizer.measure(captions) if self._tokenizer else [None] * len(captions)
        for (place, _), found in zip(usable, measured, strict=True):
            if found is None or self._tokenizer is None:
                continue
            self.tokens += found.tokens
            self.unknown.update(found.unknown)
            if found.length > self._tokenizer.length:
                self.names["cut_caption"].append(f"{item.name}: {found.length} tokens ({place})")
        return captions

    def cleaned(self) -> tuple[Usable, ...]:
        """Return what can be used, without pictures of train that another split has too."""
        shared = {sha256 for sha256, places in self._names_by_hash.items() if len(places) > 1}
        return tuple(one for one, sha256 in self._usable if one.split != TRAIN or sha256 not in shared)

    def twice(self) -> dict[str, list[str]]:
        """Return the ids that several pictures share, and the pictures that several splits share."""
        ids = self._names_by_id.items()
        same = [places for places in self._names_by_hash.values() if len(places) > 1]
        return {
            "id_collision": [f"{id_}: {', '.join(names)}" for id_, names in ids if len(names) > 1],
            "same_picture": [", ".join(f"{name} ({split})" for split, name in places.items()) for places in same],
        }
