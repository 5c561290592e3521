"""The grain pipeline. A step's batch is a pure function of (config, stage, step), so the step is the only cursor.

    position n -> record of that position -> example (decode, augment, tokenise, mask) -> this host's rows -> batch

A record that cannot be used is replaced by another one, again a function of seed and position (`broken.py`).

The random operations come first, keyed by the global position; the host's share is cut out after them. One, two and
four hosts therefore see the same examples, equally augmented, in the same global order. Only this file uses grain.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from bridge_jax import config, rng, types
from bridge_jax.config import objectives
from bridge_jax.data import image, text, wrong_captions
from bridge_jax.data.broken import REFUSED, BrokenError, Replacing, draw_caption
from bridge_jax.data.padding import padded_batches
from bridge_jax.data.partners import Drawn, Ranked
from bridge_jax.data.records import (
    Joined,
    Record,
    caption_weights,
    drawn_captions,
    open_split,
    open_training,
    pictures,
    questions,
    readable,
    texts,
)

MakeExample = Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]


class Examples:
    """Make the training example of a record: a random view of its photo with one random caption, question or statement.

    An epoch shows each photo with one caption, not with all five. The captions of a photo are positives of one another,
    so with five a batch of B rows would hold only B/5 photos and as many fewer negatives. Over the epochs every caption
    is seen.
    """

    def __init__(
        self, cfg: config.Config, stage: config.Stage, records: Sequence[Record], ranked: Ranked | None = None
    ):
        self._kinds = stage.caption_kinds, stage.kind_shares
        self._records, self._data, self._image_px = records, cfg.data, cfg.vision.image_px
        self._tokenizer = text.load(cfg.data, cfg.text)
        self._reads, self._pictures = objectives.reads(stage), objectives.pictures(cfg, stage)
        fields = [objectives.needs(name).fields for name in objectives.in_order(stage.losses)]
        self._makers = [each.maker(cfg, self._tokenizer) for each in fields if each]
        count = objectives.wrong_captions(cfg, stage)
        self._draw_wrong = wrong_captions.draw_of(records, cfg.data.dataset, self._tokenizer, count)
        self._ranked = ranked

    def __call__(self, index: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the arrays of `types.Batch.from_arrays` for one row. Raises BrokenError."""
        record = self._records[index]
        lines = texts(record)
        drawn = drawn_captions(record, self._kinds[0], source=self._reads)
        weights = caption_weights(record, drawn, *self._kinds)
        chosen, refused = draw_caption(drawn, lambda i: text.fault(lines[i]), generator, weights)
        (ids,), (mask,) = self._tokenizer.encode([lines[chosen]])
        # a photo may flip only if all of its captions allow it, so that one rule serves live and cached crops
        flip = image.may_flip(record["captions"] if self._reads == "captions" else lines)
        px = self._image_px
        views = [
            image.train_view(encoded, px, self._data, flip, generator) for encoded in pictures(record, self._pictures)
        ]
        example = {
            REFUSED: refused,
            "image_ids": np.int32(record["image_id"]),
            "images": np.stack(views) if self._pictures > 1 else views[0],
            "ids": ids,
            "text_mask": mask,
        }
        captions = len(record["captions"])
        row = objectives.Row(ids, mask, None if self._reads == "captions" else questions(record)[chosen - captions])
        for make in self._makers:
            example |= make(row, generator)
        if self._draw_wrong:
            example |= self._draw_wrong(record["wrong_captions"], lines[chosen], generator)
        if ranked := self._ranked:
            caption = int(ranked.first[index]) + chosen
            example |= self._partners(ranked, ranked.draw(index, caption, generator), generator)
        return example

    def _partners(self, ranked: Ranked, drawn: Drawn, generator: np.random.Generator) -> dict[str, np.ndarray]:
        views = []
        for record in (self._records[int(index)] for index in drawn.records):
            flip = image.may_flip(record["captions"])
            views.append(image.train_view(record["image"], self._image_px, self._data, flip, generator))
        places = map(ranked.place, drawn.captions)
        ids, mask = self._tokenizer.encode([self._records[record]["captions"][place] for record, place in places])
        return {
            "partner_images": np.stack(views),
            "partner_ids": ids,
            "partner_image_valid": drawn.records_valid,
            "partner_text_mask": mask & drawn.captions_valid[:, None],
        }


class _GroupShuffle:
    """Map a position, counted through all epochs, to a record index; the records of a group stay neighbours."""

    def __init__(self, groups: int, group: int, seed: int):
        # past its length a MapDataset starts the next epoch, and `shuffle` takes that epoch's seed
        self._order, self._group = grain.MapDataset.range(groups).shuffle(seed=seed), group

    def __call__(self, position: int, _: int) -> int:
        rank = self._order[position // self._group]
        assert rank is not None
        return rank * self._group + position % self._group


def _mixed(records: Joined, shares: Sequence[float], seed: int) -> grain.MapDataset:
    """Return the endless order of record indices: each data set in its share of positions, shuffled by itself."""
    orders, first = [], 0
    for number, size in enumerate(records.sizes):
        shuffle = _GroupShuffle(size, 1, seed + number)
        order = grain.MapDataset.range(size).map_with_index(shuffle)
        orders.append(order.map(functools.partial(operator.add, first)).repeat())
        first += size
    return grain.MapDataset.mix(orders, shares)


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
    ranked: Ranked | None = None,
) -> grain.MapDataset:
    """Return the endless training data: `ds[step]` is a `types.Batch` of numpy arrays.

    `rows` are the positions within the global batch that this host reads; None: all.

    A pure function of (cfg.seed, seed_stream, step). Every epoch is shuffled anew, keeping runs of
    `stage.group_examples` neighbouring records together and in their order; a batch may span two epochs. Losses that
    read further arrays make them themselves (`objectives.Fields`).

    `records` replaces the split that the config names. `make_example(record index, generator)` replaces `Examples`; it
    returns the arrays of `types.Batch.from_arrays` for one row or raises BrokenError. It may draw from the generator,
    but must not keep it. `ranked` holds the candidates from which `Examples` draws partners, if the stage brings them.
    Raises ConfigError where the groups do not divide the split.
    """
    rows = range(stage.batch_size) if rows is None else rows
    records = open_training(cfg.data) if records is None else records
    count, group = len(records), stage.group_examples
    if group < 1 or count % group or not count:
        raise config.ConfigError(
            f"stage group_examples {group} does not divide the {count} records of {cfg.data.train_split!r}"
        )
    make = Examples(cfg, stage, records, ranked) if make_example is None else make_example
    shuffle_seed = rng.stream_seed(cfg.seed, f"{seed_stream}/shuffle")
    if isinstance(records, Joined):
        ds = _mixed(records, [share for _, share in cfg.data.mixture], shuffle_seed)
    else:
        ds = grain.MapDataset.range(count).map_with_index(_GroupShuffle(count // group, group, shuffle_seed))
    ds = ds.random_map(Replacing(make, count), seed=rng.stream_seed(cfg.seed, f"{seed_stream}/examples"))
    ds = _HostRows(ds if isinstance(records, Joined) else ds.repeat(), stage.batch_size, rows)
    return ds.batch(len(rows), drop_remainder=True, batch_fn=_to_batch)


def _to_batch(examples: Sequence[Mapping[str, np.ndarray]]) -> types.Batch:
    return types.Batch.from_arrays({name: np.stack([e[name] for e in examples]) for name in examples[0]})


def batches(ds: grain.MapDataset, start_step: int, data: config.Data) -> grain.DatasetIterator:
    """Return an iterator over `ds[start_step], ds[start_step + 1], ...`, read ahead.

    Close it with `.close()` where worker processes are used.
    """
    return iter(read_ahead(ds, start_step, data))


def read_ahead(ds: grain.MapDataset, start_step: int, data: config.Data) -> grain.IterDataset:
    """Return `ds[start_step], ds[start_step + 1], ...`, read ahead.

    `data.threads` threads read, each a batch of its own; with `data.workers`, that many processes read, each with those
    threads. The order never depends on either.
    """
    ahead = max(1, data.prefetch_batches)
    options = grain.ReadOptions(num_threads=min(data.threads, ahead), prefetch_buffer_size=ahead)
    ds_iter = ds[start_step:].to_iter_dataset(options)
    if data.workers > 0:
        if not flags.FLAGS.is_parsed():  # grain reads its own flags here; outside absl's app they were never parsed
            flags.FLAGS.mark_as_parsed()
        ds_iter = ds_iter.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(
                num_workers=data.workers, per_worker_buffer_size=math.ceil(ahead / data.workers)
            )
        )
    return ds_iter


def images(
    cfg: config.Config,
    split: str,
    batch_size: int,
    rows: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (images uint8 [len(rows),H,W,3], image_ids int32 [b], valid bool [b]), decoded in threads.

    Records come in their own order, or as `order` lists them; with `count` pictures of each, images are
    [len(rows),k,H,W,3]. Only the pictures at `rows` of the batch are read, those of this host (None: all); ids and
    `valid` cover all rows. The last batch repeats its last row up to `batch_size` (`padded_batches`). Raises
    BrokenError.
    """
    records, px = open_split(cfg.data, split), cfg.vision.image_px

    order = range(len(records)) if order is None else order

    def view(position: int) -> np.ndarray:
        record = records[order[position]]
        try:
            views = [image.eval_view(encoded, px, cfg.data.squash) for encoded in pictures(record, count)]
            return np.stack(views) if count > 1 else views[0]
        except BrokenError as error:
            raise BrokenError(
                f"picture {record['filename']} of split {split!r}: {error}; recall needs every picture: prepare "
                f"{cfg.data.dataset!r} anew"
            ) from error

    pixels = batched(view, len(order), batch_size, cfg.data.threads, rows)
    for (positions, valid), (_, views) in zip(padded_batches(len(order), batch_size), pixels, strict=True):
        ids = [records[order[position]]["image_id"] for position in positions]
        yield np.stack(views), np.array(ids, np.int32), valid


def batched(
    make: Callable[[int], Any], count: int, batch_size: int, threads: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[int, list[Any]]]:
    """Yield (first position, [make(first), make(first + 1), ...]) over `count` positions, made ahead in threads.

    Every batch has `batch_size` rows: the last repeats its last row (`padded_batches`). Of each batch only `rows` are
    made (None: all).
    """
    rows = range(batch_size) if rows is None else rows
    batches = [positions for positions, _ in padded_batches(count, batch_size)]

    def make_row(number: int) -> Any:
        index, row = divmod(number, len(rows))
        return make(int(batches[index][rows[row]]))

    ds = grain.MapDataset.range(len(batches) * len(rows)).map(make_row)
    ds = ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * len(rows)))
    for index, made_rows in enumerate(ds.batch(len(rows), batch_fn=list)):
        yield index * batch_size, made_rows


def captions(
    cfg: config.Config, split: str, batch_size: int, *, skip: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]]:
    """Yield (ids int32 [b,T], mask bool [b,T], image_ids int32 [b], kinds, valid bool [b]) of every caption.

    Captions come in record order, and within a record in its own order. The last batch repeats its last row up to
    `batch_size` (`padded_batches`). A damaged record raises BrokenError; with `skip` it is left out.
    """
    tokenizer = text.load(cfg.data, cfg.text)
    rows: list[tuple[str, int, str]] = []
    records = open_split(cfg.data, split)
    for record in (record for record in (readable(records) if skip else records) if record):
        pairs = zip(record["captions"], record["caption_kinds"], strict=True)
        rows += [(caption, record["image_id"], kind) for caption, kind in pairs]
    for positions, valid in padded_batches(len(rows), batch_size):
        texts_of_batch, image_ids, kinds = zip(*(rows[position] for position in positions), strict=True)
        ids, mask = tokenizer.encode(texts_of_batch)
        yield ids, mask, np.array(image_ids, np.int32), list(kinds), valid
