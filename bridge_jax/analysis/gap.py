"""Measure how far the embeddings of pictures and captions lie apart, and how they are spread.

All embeddings are [n,E] of length one; row i of the pictures and row i of the captions are a pair.
"""

import numpy as np
from jaxtyping import Float

Embeddings = Float[np.ndarray, "n E"]
_RIDGE = 1e-3  # share of the mean variance that is added to every direction, so that the solution is unique


def centroid_distance(images: Embeddings, texts: Embeddings) -> float:
    """Return the distance between the mean picture and the mean caption, 0 to 2 (Liang et al. 2022, arXiv 2203.02053).

    >>> centroid_distance(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    1.4142135623730951
    """
    return float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))


def separability(images: Embeddings, texts: Embeddings, folds: int = 5, seed: int = 0) -> float:
    """Return how often a linear classifier tells pictures from captions that it has not seen: 0.5 chance, 1 always.

    Ridge regression on the labels 1 and -1, with a threshold; pairs are split into `folds` at random, and both halves
    of a pair lie in the same fold.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    right = 0
    for held in np.array_split(order, folds):
        kept = np.setdiff1d(order, held)
        x = np.concatenate([images[kept], texts[kept]]).astype(np.float64)
        y = np.repeat([1.0, -1.0], len(kept))
        centre = x.mean(axis=0)
        gram = (x - centre).T @ (x - centre)
        gram += np.eye(len(gram)) * max(_RIDGE * np.trace(gram) / len(gram), 1e-12)
        direction = np.linalg.solve(gram, (x - centre).T @ y)
        right += np.count_nonzero((images[held] - centre) @ direction > 0)
        right += np.count_nonzero((texts[held] - centre) @ direction < 0)
    return right / (2 * len(images))


def alignment(images: Embeddings, texts: Embeddings) -> float:
    """Return the mean squared distance of the two halves of a pair (Wang and Isola 2020, arXiv 2005.10242, alpha 2)."""
    return float(np.mean(np.sum((images - texts) ** 2, axis=1)))


def uniformity(embeddings: Embeddings) -> float:
    """Return the log of the mean of exp(-2 |x - y|^2) over all pairs of rows; 0: one point, about -4: spread evenly.

    Wang and Isola 2020, arXiv 2005.10242, with t = 2.
    """
    first, second = np.triu_indices(len(embeddings), k=1)
    squared = 2.0 - 2.0 * np.clip(embeddings @ embeddings.T, -1.0, 1.0)
    return float(np.log(np.mean(np.exp(-2.0 * squared[first, second].astype(np.float64)))))
