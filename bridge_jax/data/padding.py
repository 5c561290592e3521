"""Batches of one size over rows that need not divide by it: the last batch repeats its last row.

>>> [(rows.tolist(), valid.tolist()) for rows, valid in padded_batches(3, 2)]
[([0, 1], [True, True]), ([2, 2], [True, False])]
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int


def padded_batches(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, " B"], Bool[np.ndarray, " B"]]]:
    """Yield (row indices [size], valid [size]) over `count` rows in order; `valid` is False where a row is repeated."""
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        yield np.minimum(rows, count - 1), rows < count
