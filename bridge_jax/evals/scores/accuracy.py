"""Average scores with a bootstrap interval, where several scores belong to one picture."""

import numpy as np


def mean(scores: np.ndarray, clusters: np.ndarray, samples: int, seed: int) -> dict[str, float]:
    """Return `accuracy`, the mean of `scores` [n] (0 to 1) in percent, and its 95 % interval, `_low` and `_high`.

    Whole clusters [n] are drawn with replacement, because questions about one picture are not independent observations.
    Same seed, same interval. Raises FloatingPointError on NaN and ValueError where there is nothing to average.
    """
    scores, clusters = np.asarray(scores, np.float64), np.asarray(clusters)
    if scores.shape != clusters.shape or not scores.size or samples < 1:
        raise ValueError(
            f"mean: expected one cluster for each of at least one score and at least one sample, got "
            f"{list(scores.shape)} scores, {list(clusters.shape)} clusters, {samples} samples"
        )
    if np.isnan(scores).any():
        raise FloatingPointError("mean: a score is NaN; an accuracy would be meaningless")
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums, generator = np.bincount(cluster, weights=scores), np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        picked = generator.integers(len(sums), size=len(sums))
        drawn.append(sums[picked].sum() / sizes[picked].sum())
    low, high = np.percentile(drawn, (2.5, 97.5))
    values = {"accuracy": scores.mean(), "accuracy_low": low, "accuracy_high": high}
    return {name: 100.0 * float(value) for name, value in values.items()}
