"""Rows of arrays on disk that are too large for memory."""

import dataclasses
import math
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """The rows of an array in a .npy file, read one by one.

    This is no memory map, because its pages count as memory of the process, after an epoch all of them (1.7 GB with
    configs/flickr8k.py), and worker processes would receive a copy.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes before the first row

    @classmethod
    def open(cls, path: Path) -> "StoredRows":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(path, mapped.shape, mapped.dtype, mapped.offset)

    def read(self, *index: int) -> np.ndarray:
        """Return the values at `index` of the leading axes."""
        row, inner = np.ravel_multi_index(index, self.shape[: len(index)]), self.shape[len(index) :]
        count = math.prod(inner)
        offset = self.offset + int(row) * count * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=offset).reshape(inner)
