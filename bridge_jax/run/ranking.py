"""Rank the training split by the current embeddings: for every caption the nearest pictures, and the other way round.

    split -> embeddings -> exact search over all devices -> without matches -> the ranks of config.mining.ranks

The search is exact: every query is compared with the whole split, in tiles that are spread over the devices. A
candidate that matches the query is left out, and later ranks move up: the own picture and its captions, the same
caption of another picture, and a cosine that is above the true pair's by more than `config.mining.false_margin`.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bridge_jax.config import Config, ConfigError, objectives
from bridge_jax.data import text
from bridge_jax.data.padding import padded_batches
from bridge_jax.data.records import Record, drawn_captions, readable
from bridge_jax.step import sharding
from bridge_jax.types import Array, Progress

_TILE_SCORES = 1 << 24  # scores that a device holds together: 64 MB
_SPARE = 32  # candidates that are searched for beside those asked for, as some will be left out


class Split(NamedTuple):
    """The captions of a split, in the order of the records."""

    first: np.ndarray  # int64 [records], the number of each record's first caption
    record: np.ndarray  # int64 [captions]
    words: np.ndarray  # int64 [captions]; equal captions share a number
    drawn: np.ndarray  # bool [captions], whether the stage draws it


def read_split(records: Sequence[Record], kinds: Sequence[str]) -> Split:
    """Read the captions of a split. Those of other `kinds`, and those with a fault, are not drawn."""
    numbers: dict[str, int] = {}
    first, owners, words, drawn = [], [], [], []
    for index, record in enumerate(readable(records)):
        captions = record["captions"] if record else []
        wanted = set(drawn_captions(record, kinds)) if record else set()
        first.append(len(owners))
        owners += [index] * len(captions)
        words += [numbers.setdefault(caption, len(numbers)) for caption in captions]
        drawn += [place in wanted and not text.fault(caption) for place, caption in enumerate(captions)]
    return Split(np.array(first), np.array(owners, np.int64), np.array(words, np.int64), np.array(drawn, bool))


class Embedded(NamedTuple):
    """The embeddings of a split."""

    images: np.ndarray  # float32 [records, E]
    readable: np.ndarray  # bool [records]
    texts: np.ndarray  # float32 [captions, E]; any for a caption that is not drawn


class Found(NamedTuple):
    """The ranked candidates of both directions, and how many were left out as matches without a label."""

    images: np.ndarray  # int32 [captions, n], -1 where there are fewer
    texts: np.ndarray  # int32 [records, n]
    left_out: int


def check(cfg: Config, photos: int) -> None:
    """Raise ConfigError where a stage mines the split, and its `photos` are fewer than `config.mining.ranks` ask."""
    if any(objectives.partners_brought(cfg, stage) for stage in cfg.run_stages):
        _enough(cfg, photos)


def _enough(cfg: Config, photos: int) -> None:
    last = cfg.mining.ranks[1]
    if photos <= last:
        raise ConfigError(
            f"config.mining.ranks ends at {last}, but {cfg.data.train_split!r} has {photos} pictures to rank: end it "
            f"at {photos - 1} or earlier"
        )


def rank(cfg: Config, split: Split, embedded: Embedded, mesh: Mesh, progress: Progress) -> Found:
    """Return the candidates at `config.mining.ranks`. Raises ConfigError where the split has fewer."""
    images, seen, texts = embedded
    captions = np.flatnonzero(split.drawn & seen[split.record])
    records = np.unique(split.record[captions])
    _enough(cfg, len(records))
    described = np.unique(split.words * len(images) + split.record)  # which captions are true of which pictures
    true = (texts * images[split.record]).sum(axis=1)  # of each caption with its own picture
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, split.record[captions], true[captions])
    search = _Search(cfg, mesh, progress)

    def image_matches(queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        return np.isin(split.words[captions[queries]][:, None] * len(images) + records[found], described)

    def text_matches(queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        return np.isin(split.words[captions[found]] * len(images) + records[queries][:, None], described)

    by_text, over_text = search.nearest(texts[captions], images[records], true[captions], image_matches, "captions")
    by_image, over_image = search.nearest(images[records], texts[captions], best[records], text_matches, "pictures")
    width = by_text.shape[1]
    of_captions, of_records = (np.full((len(rows), width), -1, np.int32) for rows in (texts, images))
    of_captions[captions] = np.where(by_text < 0, -1, records[by_text])
    of_records[records] = np.where(by_image < 0, -1, captions[by_image])
    return Found(of_captions, of_records, over_text + over_image)


class _Search:
    """Exact search for the candidates at `config.mining.ranks`, in tiles over the devices of a mesh."""

    def __init__(self, cfg: Config, mesh: Mesh, progress: Progress):
        self._ranks, self._margin = cfg.mining.ranks, cfg.mining.false_margin
        self._mesh, self._progress = mesh, progress

    def nearest(
        self, queries: np.ndarray, gallery: np.ndarray, true: np.ndarray, matches: Any, what: str
    ) -> tuple[np.ndarray, int]:
        """Return the ranked candidates of every query, int [queries, n], and how many were above the margin.

        `matches(queries, found)` says which of the found candidates [q, K] are true of their queries.
        """
        first, last = self._ranks
        ranked, left_out = [], 0
        tile = max(1, min(1024, _TILE_SCORES // len(gallery))) * sharding.row_parts(self._mesh)
        whole = sharding.replicated(self._mesh)
        placed = jax.make_array_from_callback(gallery.shape, whole, lambda index: gallery[index])
        for picked, valid in padded_batches(len(queries), tile):
            count = min(len(gallery), last + _SPARE)
            while True:
                cosines, found = (x[valid] for x in self._top(queries[picked], placed, count))
                rows = picked[valid]
                matching = matches(rows, found)
                above = ~matching & (cosines > true[rows][:, None] + self._margin)
                kept = ~matching & ~above
                if count == len(gallery) or kept.sum(axis=1).min() >= last:
                    break
                count = min(len(gallery), 2 * count)
            order = np.argsort(~kept, axis=1, kind="stable")[:, first - 1 : last]
            candidates = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(found, order, 1), -1)
            ranked.append(np.pad(candidates, ((0, 0), (0, last - first + 1 - candidates.shape[1])), constant_values=-1))
            left_out += int(above.sum())
            self._progress(what, int(picked[-1]) + 1, len(queries))
        return np.concatenate(ranked), left_out

    def _top(self, queries: np.ndarray, gallery: jax.Array, count: int) -> Iterator[np.ndarray]:
        return map(np.asarray, _nearest(self._mesh, count)(sharding.put_whole(queries, self._mesh), gallery))


@cache
def _nearest(mesh: Mesh, count: int) -> Any:
    """Return the jitted search: queries [q,E], gallery [n,E] -> their `count` best cosines and the rows of these."""

    def nearest(queries: Array, gallery: Array) -> tuple[Array, Array]:
        cosines = jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)
        best, index = jax.lax.top_k(cosines, count)
        return best, index

    whole = sharding.replicated(mesh)
    return jax.jit(nearest, in_shardings=(sharding.over_rows(mesh), whole), out_shardings=whole)
