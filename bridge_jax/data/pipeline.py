"""The grain pipeline: the batch of a step is a pure function of (config, stage, step), so the step is the only cursor.

    position n -> record of that position -> example (decode, augment, tokenise, mask) -> this host's rows -> batch

The random operations come first, keyed by the global position; the host's share is cut out after them. One, two and
four hosts therefore see the same examples, equally augmented, in the same global order. grain lives here alone.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from bridge_jax import config, rng, types
from bridge_jax.data import datasets, image, masking, text

Record = Mapping[str, Any]
MakeExample = Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]
_HASHED_BYTES = 1 << 16  # read from each end of a shard for the fingerprint


class Split(Sequence[Record]):
    """The records of one prepared split, by index: image bytes, python strings and ints. Thread-safe and picklable."""

    def __init__(self, source: Sequence[Mapping[str, Any]]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        raw = self._source[int(index)]
        record: dict[str, Any] = {"image": raw["image"], "image_id": int(raw["image_id"])}
        for name in ("filename", "scene"):
            record[name] = raw[name].decode()
        for name in ("captions", "caption_kinds", "wrong_captions"):
            record[name] = [caption.decode() for caption in raw[name]]
        return record


def open_split(data: config.Data, split: str) -> Split:
    """Return the records of `split` in the order they were prepared.

    Raises ConfigError when the data set is not prepared (naming the command to run) or has no such split.
    """
    builder: Any = _builder(data, split)  # tfds hides the signature of as_data_source behind a decorator
    return Split(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def fingerprint(data: config.Data, split: str) -> str:
    """Return a hash of the prepared split: version, shard names, sizes and both ends of every shard.

    Cheap on a large set (128 KB are read from each shard), equal wherever the same files lie, and different when the
    data set was prepared anew with other images or captions.
    """
    builder = _builder(data, split)
    digest = hashlib.sha256(f"{data.dataset}/{split}/{builder.version}".encode())
    for path in builder.info.splits[split].filepaths:
        size = path.stat().length
        digest.update(f"{path.name}/{size}".encode())
        with path.open("rb") as shard:
            digest.update(shard.read(_HASHED_BYTES))
            shard.seek(max(0, size - _HASHED_BYTES))
            digest.update(shard.read(_HASHED_BYTES))
    return digest.hexdigest()


def _builder(data: config.Data, split: str) -> tfds.core.DatasetBuilder:
    builder = tfds.builder_from_directory(datasets.prepared_folder(data))
    if split not in builder.info.splits:
        raise config.ConfigError(
            f"config.data: data set {data.dataset!r} has no split {split!r}; "
            f"{config.nearest(split, builder.info.splits)}"
        )
    return builder


def drawn_captions(record: Record, kinds: Sequence[str]) -> list[int]:
    """Return which captions of a record a stage draws from: those of `kinds`, or all where it is empty.

    Raises ConfigError for a record that has none.
    """
    found = [i for i, kind in enumerate(record["caption_kinds"]) if not kinds or kind in kinds]
    if not found:
        raise config.ConfigError(
            f"stage caption_kinds {tuple(kinds)}: {record['filename']} has only {sorted(set(record['caption_kinds']))}"
        )
    return found


class Examples:
    """Make the training example of a record: a random view of its photo with one random caption.

    One caption a photo and epoch, and not all five: the five captions of a photo are positives of one another, so a
    batch of B rows would hold only B/5 photos and as many fewer negatives. Over the epochs every caption is seen.
    """

    def __init__(self, cfg: config.Config, stage: config.Stage, records: Sequence[Record]):
        self._kinds = stage.caption_kinds
        self._records, self._data, self._image_px = records, cfg.data, cfg.vision.image_px
        self._patches = (cfg.vision.image_px // cfg.vision.patch_px) ** 2
        self._tokenizer = text.load(cfg.data, cfg.text)
        self._mlm, self._mim = "mlm" in stage.losses, "mim" in stage.losses

    def __call__(self, index: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the fields of `types.Batch` for one row."""
        record = self._records[index]
        caption = record["captions"][generator.choice(drawn_captions(record, self._kinds))]
        (ids,), (mask,) = self._tokenizer.encode([caption])
        # a photo is flipped only if none of its captions minds, so that one rule serves live and cached crops
        flip = image.may_flip(record["captions"])
        example = {
            "image_ids": np.int32(record["image_id"]),
            "images": image.train_view(record["image"], self._image_px, self._data, flip, generator),
            "ids": ids,
            "text_mask": mask,
        }
        if self._mlm:
            example["masked_ids"], example["masked_text"] = masking.mask_tokens(
                ids, mask, self._tokenizer, self._data.mask_text_fraction, generator
            )
        if self._mim:
            example["masked_patches"] = masking.mask_patches(self._patches, self._data.mask_patch_fraction, generator)
        return example


class _GroupShuffle:
    """Map a position, counted on through the epochs, to a record index; a group's records stay neighbours."""

    def __init__(self, groups: int, group: int, seed: int):
        # past its length a MapDataset goes on with the next epoch, and `shuffle` with that epoch's seed
        self._order, self._group = grain.MapDataset.range(groups).shuffle(seed=seed), group

    def __call__(self, position: int, _: int) -> int:
        rank = self._order[position // self._group]
        assert rank is not None
        return rank * self._group + position % self._group


class _HostRows(grain.MapDataset):
    """The rows of every global batch that one host feeds (sharding.host_rows)."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, len(self._rows))
        return self._parent[step * self._batch_size + self._rows[row]]


def train(
    cfg: config.Config,
    stage: config.Stage,
    *,
    seed_stream: str,
    rows: Sequence[int] | None = None,
    records: Sequence[Record] | None = None,
    make_example: MakeExample | None = None,
) -> grain.MapDataset:
    """Return the endless training data: `ds[step]` is a `types.Batch` of numpy arrays.

    `rows` are the positions within the global batch that this host reads; None: all.

    A pure function of (cfg.seed, seed_stream, step). Every epoch is shuffled anew, keeping runs of
    `stage.group_examples` neighbouring records together and in their order; a batch may span two epochs. The losses of
    the stage decide whether tokens ("mlm") and patches ("mim") are masked.

    `records` replaces the split that the config names. `make_example(record index, generator)` replaces `Examples`; it
    returns the fields of `types.Batch` for one row and may draw from the generator, but not keep it.
    Raises ConfigError when the groups do not divide the split.
    """
    rows = range(stage.batch_size) if rows is None else rows
    records = open_split(cfg.data, cfg.data.train_split) if records is None else records
    count, group = len(records), stage.group_examples
    if group < 1 or count % group or not count:
        raise config.ConfigError(
            f"stage group_examples {group} does not divide the {count} records of {cfg.data.train_split!r}"
        )
    make = Examples(cfg, stage, records) if make_example is None else make_example
    shuffle_seed = rng.stream_seed(cfg.seed, f"{seed_stream}/shuffle")
    ds = grain.MapDataset.range(count).map_with_index(_GroupShuffle(count // group, group, shuffle_seed))
    ds = ds.random_map(make, seed=rng.stream_seed(cfg.seed, f"{seed_stream}/examples"))
    ds = _HostRows(ds.repeat(), stage.batch_size, rows)
    return ds.batch(len(rows), drop_remainder=True, batch_fn=_to_batch)


def _to_batch(examples: Sequence[Mapping[str, np.ndarray]]) -> types.Batch:
    return types.Batch(**{name: np.stack([e[name] for e in examples]) for name in examples[0]})


def batches(ds: grain.MapDataset, start_step: int, data: config.Data) -> grain.DatasetIterator:
    """Return an iterator over `ds[start_step], ds[start_step + 1], ...`, read ahead.

    Threads (`data.threads`, each on a batch of its own) or, with `data.workers`, that many processes with those threads
    each. The order never depends on either. Close it with `.close()` where worker processes are used.
    """
    ahead = max(1, data.prefetch_batches)
    options = grain.ReadOptions(num_threads=min(data.threads, ahead), prefetch_buffer_size=ahead)
    ds_iter = ds[start_step:].to_iter_dataset(options)
    if data.workers > 0:
        if not flags.FLAGS.is_parsed():  # grain reads flags of its own here; outside absl's app nobody has parsed them
            flags.FLAGS.mark_as_parsed()
        ds_iter = ds_iter.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(
                num_workers=data.workers, per_worker_buffer_size=math.ceil(ahead / data.workers)
            )
        )
    return iter(ds_iter)


def images(
    cfg: config.Config, split: str, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (images uint8 [len(rows),H,W,3], image_ids int32 [b], valid bool [b]) in record order, decoded in threads.

    The pictures are those at `rows` of the batch alone, which this host reads (None: all); the rest is of all rows.
    The last batch is padded to `batch_size` by repeating its last row, with `valid` False there.
    """
    records, px = open_split(cfg.data, split), cfg.vision.image_px

    def view(index: int) -> np.ndarray:
        return image.eval_view(records[index]["image"], px)

    for first, pixels in batched(view, len(records), batch_size, cfg.data.threads, rows):
        every = np.arange(first, first + batch_size)
        ids = [records[row]["image_id"] for row in np.minimum(every, len(records) - 1)]
        yield np.stack(pixels), np.array(ids, np.int32), every < len(records)


def batched(
    make: Callable[[int], Any], count: int, batch_size: int, threads: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[int, list[Any]]]:
    """Yield (first position, [make(first), make(first + 1), ...]) over `count` positions, made ahead in threads.

    Every batch has `batch_size` rows: the last is filled up by repeating its last row. Of each only `rows` are made
    (None: all).
    """
    rows = range(batch_size) if rows is None else rows

    def made(position: int) -> Any:
        index, row = divmod(position, len(rows))
        return make(min(index * batch_size + rows[row], count - 1))

    ds = grain.MapDataset.range(math.ceil(count / batch_size) * len(rows)).map(made)
    ds = ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * len(rows)))
    for index, made_rows in enumerate(ds.batch(len(rows), batch_fn=list)):
        yield index * batch_size, made_rows


def captions(
    cfg: config.Config, split: str, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]]:
    """Yield (ids int32 [b,T], mask bool [b,T], image_ids int32 [b], kinds, valid bool [b]) of every caption.

    In record order, and within a record in its own. The last batch is padded to `batch_size` by repeating its last
    row, with `valid` False there.
    """
    tokenizer = text.load(cfg.data, cfg.text)
    rows: list[tuple[str, int, str]] = []
    for record in open_split(cfg.data, split):
        pairs = zip(record["captions"], record["caption_kinds"], strict=True)
        rows += [(caption, record["image_id"], kind) for caption, kind in pairs]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        valid = np.arange(batch_size) < len(part)
        said, ids_of_images, kinds = zip(*(part + [part[-1]] * (batch_size - len(part))), strict=True)
        ids, mask = tokenizer.encode(said)
        yield ids, mask, np.array(ids_of_images, np.int32), list(kinds), valid
