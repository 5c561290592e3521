"""Search embeddings exactly: one matrix product, in chunks."""

import numpy as np
from jaxtyping import Bool, Float, Int

CHUNK = 1 << 16  # rows of a matrix product


def nearest(
    embeddings: Float[np.ndarray, "rows E"], query: Float[np.ndarray, " E"], k: int, allowed: Bool[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the rows of the k largest cosines and these, the largest first; of equal ones the first row."""
    parts = [embeddings[i : i + CHUNK] @ query for i in range(0, len(embeddings), CHUNK)]
    cosines = np.where(allowed, np.concatenate([np.zeros(0, np.float32), *parts]), -np.inf)
    k = min(k, int(allowed.sum()))
    if not k:
        return np.zeros(0, int), np.zeros(0, np.float32)
    least = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
    rows = np.flatnonzero(cosines >= least)
    rows = rows[np.argsort(-cosines[rows], kind="stable")][:k]
    return rows, cosines[rows]
