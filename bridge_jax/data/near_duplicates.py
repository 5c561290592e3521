"""Find, among millions of perceptual hashes that come one after the other, those near to an earlier one.

    known = NearDuplicates()
    known.add(hashes)       True for each hash that differs in more than MAX_DISTANCE bits from all that were added

A hash that is near to an added one is not added itself, so the first of each group of copies stays.

The 64 bits are cut into three bands. Two hashes that differ in at most 8 bits differ in at most 2 within one of the
bands (Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014). So only hashes whose
band is one of some 230 values are compared, about 4,000 of 12 million where the bits are independent.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Bool, UInt64

from bridge_jax.data.perceptual_hash import MAX_DISTANCE

_BANDS = ((0, 21), (21, 21), (42, 22))  # first bit and number of bits of each
# Hashes that are compared one by one until they are sorted into tables, and in tables that are made anew with those.
_UNSORTED, _SMALL = 1 << 12, 1 << 18
_ROWS = 256  # hashes looked for at once: bounds the memory


class NearDuplicates:
    """The hashes that were added, in their order."""

    def __init__(self):
        self._small = self._large = _Tables(np.zeros(0, np.uint64))
        self._rest = np.zeros(0, np.uint64)

    def add(self, hashes: UInt64[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Add the hashes that are near to none before them, and return which these are."""
        parts = [self._add(hashes[start : start + _ROWS]) for start in range(0, len(hashes), _ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _add(self, hashes: np.ndarray) -> np.ndarray:
        fresh = ~self._large.find(hashes)
        fresh[fresh] = ~self._small.find(hashes[fresh])
        fresh[fresh] = ~_near(hashes[fresh], self._rest).any(axis=1)
        earlier = np.tril(_near(hashes, hashes), -1)
        for row in np.flatnonzero(earlier.any(axis=1)):
            fresh[row] &= not (earlier[row] & fresh).any()
        self._rest = np.concatenate([self._rest, hashes[fresh]])
        if len(self._rest) >= _UNSORTED:
            self._small = _Tables(np.concatenate([self._small.hashes, self._rest]))
            self._rest = self._rest[:0]
        if len(self._small.hashes) >= _SMALL:
            self._large = _Tables(np.concatenate([self._large.hashes, self._small.hashes]))
            self._small = _Tables(self._rest)
        return fresh


def _near(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the hashes [n] are near to which others [m], bool [n, m]."""
    return np.bitwise_count(hashes[:, None] ^ others) <= MAX_DISTANCE


class _Tables:
    """Hashes by the value of each band: those of value v are `hashes[order[starts[v]:starts[v + 1]]]`."""

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes
        self._bands = [self._sorted(first, width) for first, width in _BANDS] if len(hashes) else []

    def _sorted(self, first: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        values = _band(self.hashes, first, width)
        starts = np.zeros((1 << width) + 1, np.int64)
        np.cumsum(np.bincount(values, minlength=1 << width), out=starts[1:])
        return np.argsort(values, kind="stable").astype(np.uint32), starts

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return which of `hashes` are near to one of the table."""
        found = np.zeros(len(hashes), bool)
        for (first, width), (order, starts) in zip(_BANDS[: len(self._bands)], self._bands, strict=True):
            rows = np.flatnonzero(~found)
            values = (_band(hashes[rows], first, width)[:, None] ^ _changes(width)).ravel()
            counts = starts[values + 1] - starts[values]
            owners = np.repeat(np.repeat(rows, len(_changes(width))), counts)
            ends = np.cumsum(counts)
            places = np.repeat(starts[values] - ends + counts, counts) + np.arange(len(owners))
            near = np.bitwise_count(self.hashes[order[places]] ^ hashes[owners]) <= MAX_DISTANCE
            found[owners[near]] = True
        return found


def _band(hashes: np.ndarray, first: int, width: int) -> np.ndarray:
    return ((hashes >> np.uint64(first)) & np.uint64((1 << width) - 1)).astype(np.int64)


@functools.cache
def _changes(width: int) -> np.ndarray:
    """Return the numbers whose binary form has `width` digits and at most MAX_DISTANCE // 3 ones, int64."""
    most = MAX_DISTANCE // len(_BANDS)
    bits = [bits for count in range(most + 1) for bits in itertools.combinations(range(width), count)]
    return np.array([sum(1 << bit for bit in some) for some in bits], np.int64)
