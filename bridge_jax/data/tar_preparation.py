"""Prepare a data set of tars in parallel processes, so that a stop loses at most the shards that were under way.

    index/00000.tar.parquet          the samples of each tar (`tar_index`), read in parallel
    cc3m-train.array_record-00000    a shard: up to 1,024 samples of one tar (`tar_shards`), written in parallel
    unfinished/                      while it is under way: the plan, and a report for each shard that is whole
    manifest.json                    the tars that are prepared, with the reports of their shards (`tar_manifest`)
    skipped_images.txt, ...          merged from the reports
    dataset_info.json                what training opens; written last

Nothing depends on who writes a shard and when, so the bytes are the same for any number of processes or machines and
after any kills. Tars that are added later come after the others, in the order of their names: their shards get the next
numbers, and no other shard is touched.

The split of a picture is that of its tar's name, or drawn by a hash of its bytes. Its id is a hash of the names of tar
and sample, of 28 bits, so that those of eight data sets fit into 31 (`records.Joined`). Where an id is taken, the next
free one is used: the id of such a picture alone depends on the tars before its own.

Filters (`filters`) judge the index of one tar after the other, before any shard is written. What they take of a tar
depends on it alone, but for near duplicates, which are looked for in the tars before it too.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data import fetch_stats, filters, prepared, tar_index, tar_manifest, tar_shards
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import SPLITS, Tars
from bridge_jax.data.datasets.photo_records import Skipped
from bridge_jax.data.encode import Stored
from bridge_jax.data.filters import Filters, Judged, Sieve
from bridge_jax.data.held_out import TRAIN, HeldOut
from bridge_jax.data.processes import Workers
from bridge_jax.data.tar_index import Summary, Tar, whole
from bridge_jax.data.tar_manifest import Manifest, Source
from bridge_jax.data.tar_shards import MOST_SHARDS, UNFINISHED, Report, Task

IDS = 1 << 28
Progress = Callable[[str, int, int], None]  # as in `types`, whose import of jax would double the start of a process
_PLAN = "plan.json"


class Job(NamedTuple):
    """Name the data set, the folder of its records, the raw folder and its tars, and how to prepare them."""

    builder: type[photo_builder.Builder]
    folder: Path
    raw: Path
    tars: Tars
    stored: Stored
    held_out: HeldOut | None
    filters: Filters = Filters()

    @property
    def settings(self) -> dict[str, Any]:
        """All that the bytes of a shard depend on besides its tar."""
        return {
            **self.stored._asdict(),
            "held_out": self.held_out and self.held_out.sizes,
            "val_share": self.tars.val_share,
            "test_share": self.tars.test_share,
            "shard_examples": prepared.SHARD_EXAMPLES,
            **self.filters._asdict(),
        }

    def index(self, tar: str) -> Path:
        """Return the file of a tar's index."""
        return tar_shards.index(self.folder, tar)


def is_open(job: Job) -> bool:
    """Return whether there is something to do, or to refuse, in a folder that is prepared: tars came or changed."""
    if not (job.folder / tar_manifest.FILE).is_file():  # before there was one, all was prepared at once
        return False
    sizes = {source.tar: source.bytes for source in tar_manifest.read(job.folder).sources}
    changed = any((job.raw / tar).stat().st_size != sizes.get(tar) for tar in job.tars.splits)
    return changed or (job.folder / UNFINISHED).is_dir()


def prepare(job: Job, workers: Workers, progress: Progress = lambda *_: None) -> bool:
    """Prepare the tars that are not prepared yet, by `workers`; return False where there are none.

    Goes on where another call was stopped. Raises ConfigError.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with _alone(job.folder):
        before = tar_manifest.read(job.folder)
        names = _plan(job, before)
        if not names and not (job.folder / UNFINISHED).is_dir():
            return False
        fetched = {name: fetch_stats.read(job.raw / name) for name in names}
        missing = [Tar(str(job.raw), name, str(job.index(name)), job.filters.look) for name in names]
        missing = [tar for tar in missing if not Path(tar.index).is_file()]
        indexed = workers.mapped(tar_index.write, missing, len(missing))
        for done, _ in enumerate(indexed, 1):
            progress("tars", done, len(missing))
        sources = _write(job, before, names, workers, progress)
        sources = [source._replace(fetched=fetched[source.tar]) for source in sources]
        manifest = Manifest(job.settings, (*before.sources, *sources))
        tar_manifest.finish(job.folder, job.builder, manifest, job.held_out)
        for left in job.folder.rglob("*.tmp"):
            left.unlink()
        (job.folder / UNFINISHED / _PLAN).unlink(missing_ok=True)  # first: without it, what is left says nothing
        shutil.rmtree(job.folder / UNFINISHED)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, as long as this process lives at most. Raises ConfigError where another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(f"{folder} is being prepared by another process: wait for it or end it") from error
    finally:
        os.close(descriptor)


def _plan(job: Job, before: Manifest) -> list[str]:
    """Return the tars to prepare, in order, and write down that they are under way. Raises ConfigError.

    Once a shard is whole, its plan stands: other settings or a tar that has changed would give other bytes.
    """
    file = job.folder / UNFINISHED / _PLAN
    stands = file.is_file() and any(path != file for path in file.parent.glob("*.json"))
    planned = as_json.loads(file.read_text(encoding="utf-8")) if stands else {"settings": before.settings, "tars": {}}
    settings = tar_manifest.ADDED | planned["settings"]
    known = {source.tar: source.split for source in before.sources} | planned["tars"]
    tars = planned["tars"] | {tar: split for tar, split in job.tars.splits.items() if tar not in known}
    names = [tar for tar in tars if tar not in {source.tar for source in before.sources}]
    if (stands or names) and known and (other := _differs(settings, job.settings)):
        raise ConfigError(
            f"{job.folder} was begun with {other}: give the same flags to go on, or delete the folder to begin anew"
        )
    sizes = {source.tar: source.bytes for source in before.sources}
    for tar, split in known.items():
        path, index = job.raw / tar, job.index(tar)
        size = sizes.get(tar) or (tar_index.size(index) if index.is_file() else None)
        changed = path.is_file() and (path.stat().st_size != size or job.tars.splits.get(tar) != split)
        if changed or (tar not in sizes and not path.is_file()):
            raise ConfigError(
                f"{path} is not as it was when {job.folder} was begun: put it back, or delete the folder to begin anew"
            )
    for tar in names:
        index = job.index(tar)
        if tar not in known and index.is_file():
            size = (job.raw / tar).stat().st_size
            if tar_index.size(index) != size or tar_index.look(index) != job.filters.look:
                index.unlink()
    if names:
        with whole(file) as fresh:
            fresh.write_text(json.dumps({"settings": job.settings, "tars": tars}), encoding="utf-8")
    return names


def _differs(before: Any, now: Any) -> str:
    """Return the settings of `before` that are others now."""
    return ", ".join(f"{name} {value!r}" for name, value in before.items() if now[name] != value)


def _write(job: Job, before: Manifest, names: Sequence[str], workers: Workers, progress: Progress) -> list[Source]:
    """Write the shards of the tars `names` and return what they hold. Raises ConfigError where too much is broken."""
    counts, faults = {}, {}
    judged = _judged(job, before, names, progress)
    for tar in names:
        found = tar_index.summary(job.index(tar))
        kept = judged[tar].kept if tar in judged else True
        counts[tar] = {split: len(rows) for split, rows in _rows(job, job.tars.splits[tar], found, kept).items()}
        faults[tar] = tuple(f"{job.raw / tar}: {fault}" for fault in found.faults)
    _check_splits(job, before, counts, faults)
    skipped = Skipped(before.photos() + sum(sum(counts[tar].values()) + len(faults[tar]) for tar in names))
    for line, share in before.skipped():
        skipped.add(line, share)
    for line in (line for tar in names for line in faults[tar]):
        skipped.add(line, 1.0)
    total = sum(-(-count // prepared.SHARD_EXAMPLES) for tar in names for count in counts[tar].values())
    reports: dict[str, list[Report]] = {tar: [] for tar in names}
    tasks = _tasks(job, before, names, judged)
    with contextlib.closing(workers.mapped(tar_shards.write, tasks, total)) as written:
        for done, report in enumerate(written, 1):
            reports[report.tar].append(report)
            for line, share in report.skipped:
                skipped.add(line, share)
            progress("shards", done, total)
    return [
        Source(
            tar,
            tar_index.size(job.index(tar)),
            job.tars.splits[tar],
            faults[tar],
            tuple(reports[tar]),
            judged[tar].took if tar in judged else {},
        )
        for tar in names
    ]


def _judged(job: Job, before: Manifest, names: Sequence[str], progress: Progress) -> dict[str, Judged]:
    """Return what filters say of each tar: of the samples of its summary, and of captions by the row of its index.

    Without filters it is empty. Raises ConfigError where nothing of train is left.
    """
    if not job.filters.on:
        return {}
    sieve, judged, fresh = Sieve(job.filters), {}, set(names)
    count, left = 0, len(before.shards(TRAIN))
    earlier = before.sources if job.filters.drop_near_duplicates else ()
    splits = {source.tar: source.split for source in earlier} | {tar: job.tars.splits[tar] for tar in names}
    for done, (tar, split) in enumerate(splits.items(), 1):
        found = tar_index.summary(job.index(tar))
        train = _rows(job, split, found)[TRAIN]
        said = sieve.judge(tar_index.photos(job.index(tar), found.rows[train]))
        if tar in fresh:
            kept = np.ones(len(found.rows), bool)
            kept[train] = said.kept
            captions = {int(found.rows[train[place]]): some for place, some in said.captions.items()}
            judged[tar] = Judged(kept, captions, said.took)
            count, left = count + len(train), left + int(said.kept.sum())
        progress("filters", done, len(splits))
    if count and not left:
        raise filters.took_all(count)
    return judged


def _check_splits(
    job: Job, before: Manifest, counts: dict[str, dict[str, int]], faults: dict[str, tuple[str, ...]]
) -> None:
    """Raise ConfigError where there is no photo, or none in a split that a share was asked for."""
    filled = set(before.splits()) | {split for of_tar in counts.values() for split, count in of_tar.items() if count}
    if not filled:
        every = [fault for of_tar in faults.values() for fault in of_tar]
        raise ConfigError(every[0] if every else f"{job.raw / next(iter(counts))} lists no photo; list at least one")
    shares = {"train": 1.0, "val": job.tars.val_share, "test": job.tars.test_share}
    for split in (split for split in SPLITS if shares[split] and split not in filled):
        if not any(job.tars.splits.values()):
            raise ConfigError(
                f"{job.raw}: no photo falls into {split}; add photos, or change --val_share and --test_share"
            )


def _rows(job: Job, named: str, found: Summary, kept: np.ndarray | bool = True) -> dict[str, np.ndarray]:
    """Return split -> positions in a summary of its samples that are `kept`. `named` is the split of the tar's name."""
    shares = job.tars.val_share, job.tars.test_share
    drawn = [named or photo_builder.drawn_split(sha256, *shares) for sha256 in found.sha256]
    return {split: np.flatnonzero(np.array([one == split for one in drawn], bool) & kept) for split in SPLITS}


def _tasks(job: Job, before: Manifest, names: Sequence[str], judged: Mapping[str, Judged]) -> Iterator[Task]:
    """Yield the shards to write, in the order of their numbers. Raises ConfigError where a split has too many."""
    taken = np.zeros(IDS // 8, np.uint8)  # a bit for each id
    for source in before.sources:
        free_ids(tar_index.summary(job.index(source.tar)).numbers, taken)
    numbers = {split: len(before.shards(split)) for split in SPLITS}
    for tar in names:
        found = tar_index.summary(job.index(tar))
        ids = free_ids(found.numbers, taken)
        kept, captions = (judged[tar].kept, judged[tar].captions) if tar in judged else (True, {})
        for split, rows in _rows(job, job.tars.splits[tar], found, kept).items():
            for start in range(0, len(rows), prepared.SHARD_EXAMPLES):
                part = rows[start : start + prepared.SHARD_EXAMPLES]
                where = str(job.raw), str(job.folder), job.builder.name, tar, split, numbers[split]
                left = {row: captions[row] for row in found.rows[part].tolist() if row in captions}
                yield Task(*where, found.rows[part], ids[part], job.stored, job.held_out, left)
                numbers[split] += 1
                if numbers[split] > MOST_SHARDS:
                    raise ConfigError(f"--raw_dir: more than {MOST_SHARDS:,} shards of {split}; prepare fewer pictures")


def free_ids(numbers: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return ids made of uint64 `numbers`, int64 [n], and mark them in `taken`, uint8 with a bit for each id.

    Of two numbers with the same id the first has it; the other gets the next id that is free.
    """
    ids = (numbers % np.uint64(8 * len(taken))).astype(np.int64)
    waiting = np.arange(len(ids))
    while len(waiting):
        wanted, first = np.unique(ids[waiting], return_index=True)
        free = (taken[wanted >> 3] >> (wanted & 7) & 1) == 0
        np.bitwise_or.at(taken, wanted[free] >> 3, (1 << (wanted[free] & 7)).astype(np.uint8))
        waiting = np.delete(waiting, first[free])
        ids[waiting] = (ids[waiting] + 1) % (8 * len(taken))
    return ids
