"""Score zero-shot classification, in plain NumPy: the class of a photo is that of the best prompt."""

import numpy as np
from jaxtyping import Float, Int

from bridge_jax.evals.scores import accuracy, recall


def class_embeddings(prompts: Float[np.ndarray, "C K E"]) -> Float[np.ndarray, "C E"]:
    """Return the embedding of each class: the mean over its prompts, of length one again (Radford et al. 2021, 3.1.4).

    The embeddings of the prompts have length one.
    """
    mean = prompts.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def reranked(
    cosines: Float[np.ndarray, "n C"], best: Int[np.ndarray, "n k"], joined: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "n C"]:
    """Return scores by which the `best` classes of each photo are ordered as `joined` and come before all others."""
    score = cosines.copy()
    np.put_along_axis(score, best, joined, axis=1)
    return recall.reorder(cosines, score, best)


def ranks(scores: Float[np.ndarray, "n C"], classes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return the rank of each photo's class, best is 1; a tie counts against it. Raises FloatingPointError on NaN."""
    return recall.ranks(scores, classes, np.arange(scores.shape[1]), "zero_shot")


def measures(found: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"], samples: int, seed: int) -> dict[str, float]:
    """Return `accuracy`, `accuracy_at_5` and `mean_per_class` of the ranks of the photos' classes, in percent.

    Each has its 95 % bootstrap interval over photos, `_low` and `_high`. `mean_per_class` is the mean accuracy of the
    classes that have a photo; for its interval, photos are drawn within each class.
    """
    photos, metrics = np.arange(len(found)), {}
    for name, k in (("accuracy", 1), ("accuracy_at_5", 5)):
        scored = accuracy.mean(found <= k, photos, samples, seed)
        metrics |= {key.replace("accuracy", name): value for key, value in scored.items()}
    _, number, counts = np.unique(classes, return_inverse=True, return_counts=True)
    shares = np.bincount(number, weights=found <= 1) / counts
    drawn = np.random.default_rng(seed).binomial(counts, shares, (samples, len(counts))) / counts
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    values = {"mean_per_class": shares.mean(), "mean_per_class_low": low, "mean_per_class_high": high}
    return metrics | {name: 100.0 * float(value) for name, value in values.items()}
