"""Partners from the whole training split: the candidates were ranked before, an example draws some of them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from bridge_jax.data.stored_rows import StoredRows


class Drawn(NamedTuple):
    """The partners of one example. Where a query has too few, its own picture or caption stands there, not valid."""

    records: np.ndarray  # int [k], whose pictures its caption does not describe
    records_valid: np.ndarray  # bool [k]
    captions: np.ndarray  # int [k], counted over the split, that do not describe its picture
    captions_valid: np.ndarray  # bool [k]


@dataclasses.dataclass(frozen=True)
class Ranked:
    """The candidates of `config.mining.ranks`, hardest first; -1 where a query has fewer (run/ranking.py)."""

    images: StoredRows  # int32 [captions, n], for each caption of the split the records of pictures
    texts: StoredRows  # int32 [records, n], for each picture the captions
    first: np.ndarray  # int64 [records], the number of each record's first caption
    partners: int  # k, how many of them an example draws

    def draw(self, record: int, caption: int, generator: np.random.Generator) -> Drawn:
        """Draw the partners of a caption and of its picture, uniformly and each at most once."""
        records = self._some(self.images.read(caption), generator)
        captions = self._some(self.texts.read(record), generator)
        return Drawn(
            np.where(records < 0, record, records),
            records >= 0,
            np.where(captions < 0, caption, captions),
            captions >= 0,
        )

    def place(self, caption: int) -> tuple[int, int]:
        """Return the record of a caption, and the caption's number in it."""
        record = int(np.searchsorted(self.first, caption, side="right")) - 1
        return record, int(caption - self.first[record])

    def _some(self, candidates: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        found = candidates[candidates >= 0]
        drawn = generator.permutation(found)[: self.partners]
        return np.pad(drawn, (0, self.partners - len(drawn)), constant_values=-1)
