"""Judge claims by paired differences: plain NumPy, the t distribution, and Holm's correction.

docs/ablations.md defines the words. A difference counts with two spreads: that over photos, because other photos would
give another one, and that over seeds, because other runs would.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats import multitest

LEVEL = 0.05  # of the corrected p, two-sided
SEEDS = 3  # fewer decide nothing
POWER = 0.8  # with which the seeds or photos of `wanted` would decide


class Difference(NamedTuple):
    """The advantage of one row over another, in percentage points of R@1, with its 95 % interval.

    The squared standard error is `over_photos` + `over_seeds`. With one seed nothing is known of the spread over seeds,
    and the interval is that over photos alone.
    """

    value: float
    low: float
    high: float
    p: float  # two-sided
    seeds: int
    photos: int
    over_photos: float
    over_seeds: float


class Wanted(NamedTuple):
    """The seeds or photos that would decide a claim if the difference seen were the true one; None: no number would."""

    seeds: int | None  # at the photos that there are
    photos: int | None  # at the seeds that there are


def difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray], photos: np.ndarray) -> Difference:
    """Return the advantage of `a` over `b` in R@1: ranks [queries] of each seed, the seeds in the same order.

    `photos` [queries] is the photo of each query; its captions count as one observation. With x[s, p] the gain of seed
    s on photo p, SE^2 = var_p(mean_s x) / photos + var_s(mean_p x) / seeds. Each term also holds its share of the noise
    of single runs on single photos, which is so counted twice rather than not at all. The degrees of freedom of the t
    distribution are Satterthwaite's. Raises ValueError where the queries differ.
    """
    hits_a, hits_b = (np.stack([np.asarray(ranks) <= 1 for ranks in side]).astype(float) for side in (a, b))
    if hits_a.shape != hits_b.shape or hits_a.shape[1:] != np.shape(photos):
        raise ValueError(
            f"difference: expected ranks [seeds, queries] of the same queries, got {list(hits_a.shape)}, "
            f"{list(hits_b.shape)} and the photos of {len(photos)}"
        )
    _, photo = np.unique(photos, return_inverse=True)
    seeds, count = len(hits_a), int(photo.max()) + 1
    gains = np.stack([np.bincount(photo, row, count) for row in 100.0 * (hits_a - hits_b)]) * count / len(photo)
    value = float(gains.mean())
    over_photos = float(gains.mean(axis=0).var(ddof=1)) / count
    over_seeds = float(gains.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = over_photos + over_seeds
    if variance == 0:
        return Difference(value, value, value, float(value == 0), seeds, count, 0.0, 0.0)
    freedom = over_photos**2 / (count - 1) + (over_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    t = stats.t(variance**2 / freedom)
    error = variance**0.5
    half = float(t.ppf(0.975)) * error
    p = 2 * float(t.sf(abs(value) / error))
    return Difference(value, value - half, value + half, p, seeds, count, over_photos, over_seeds)


def corrected(differences: Sequence[Difference]) -> list[float | None]:
    """Return Holm's corrected p of those that have enough seeds to be decided, and None for the others."""
    judged = [each.p for each in differences if each.seeds >= SEEDS]
    found = iter(np.asarray(multitest.multipletests(judged, method="holm")[1]).tolist() if judged else ())
    return [next(found) if each.seeds >= SEEDS else None for each in differences]


def word(found: Difference, p: float | None) -> str:
    """Return the verdict on the claim that the first row is better, by the corrected `p`."""
    if p is None or p >= LEVEL:
        return f"undecided at {found.seeds} seed{'s' * (found.seeds > 1)}"
    return "confirmed" if found.value > 0 else "refuted"


def wanted(found: Difference, tests: int) -> Wanted:
    """Return what would decide an undecided claim among `tests` of them, by the variances seen.

    Raises ValueError with one seed, which shows no spread over seeds.
    """
    if found.seeds < 2:
        raise ValueError("wanted: expected two seeds or more, got 1")
    quantiles = stats.norm.ppf(1 - LEVEL / 2 / max(1, tests)) + stats.norm.ppf(POWER)
    goal = (found.value / quantiles) ** 2  # the squared standard error that would decide
    seeds, photos = goal - found.over_photos, goal - found.over_seeds
    return Wanted(
        max(SEEDS, int(np.ceil(found.seeds * found.over_seeds / seeds))) if seeds > 0 else None,
        int(np.ceil(found.photos * found.over_photos / photos)) if photos > 0 else None,
    )
