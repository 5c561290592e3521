"""Say no: turn the two scores of a text and a photo into a probability, and say when no photo matches.

    probability = 1 / (1 + exp(-(slopes . (match logit, unimodal score) + offset)))

Slopes, offset and threshold come from held-out pairs, searched as a user would: a caption looks for its photo among
those of the split, and the bridge looks at the best candidates. The curve is fitted to each caption's own photo and to
the wrong one that comes first, which is the answer where the own photo is not in the index.

The match logit alone would do for a bridge that was trained on every kind of wrong pair. It sees mined ones, which are
hard, so its logit of an easy wrong pair may be anything; the unimodal score tells those (docs/photo_search.md).

A weak model cannot say no: it puts some wrong photo of many above the own one nearly always. Its curve then falls where
the scores rise, and is not used.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

KEPT = 0.9  # share of the true pairs above the threshold
MOST_ALARMS = 0.5  # share of false alarms up to which the refusal is used


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The fitted curve; a photo matches at a probability of `threshold` or more."""

    threshold: float
    slopes: tuple[float, float]  # of the match logit, of the unimodal score
    offset: float
    false_alarms: float  # share of the captions of which a wrong candidate matches
    captions: int  # that it was made of
    photos: int  # that they were searched in

    @property
    def used(self) -> bool:
        """Say whether the scores tell enough."""
        return self.false_alarms <= MOST_ALARMS

    def probability(self, scores: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """Return how likely the text is true of each photo, were as many true as wrong."""
        return logistic(scores @ np.array(self.slopes) + self.offset)


def calibrate(true: Float[np.ndarray, "n 2"], wrong: Sequence[Float[np.ndarray, "k 2"]], photos: int) -> Refusal:
    """Make the refusal of n captions: their scores with their own photo, and with wrong candidates, the first first."""
    slopes, offset = fit(true, np.array([candidates[0] for candidates in wrong]))
    refusal = Refusal(0.0, slopes, offset, 0.0, len(true), photos)
    threshold = float(np.quantile(refusal.probability(true), 1 - KEPT, method="lower"))
    alarms = [refusal.probability(candidates).max() >= threshold for candidates in wrong]
    return dataclasses.replace(refusal, threshold=threshold, false_alarms=float(np.mean(alarms)))


def fit(true: Float[np.ndarray, "n 2"], wrong: Float[np.ndarray, "m 2"]) -> tuple[tuple[float, float], float]:
    """Fit slopes and offset of a logistic curve by Newton's method.

    The targets are (n + 1) / (n + 2) and 1 / (m + 2) in place of 1 and 0, which keep the curve of pairs that never mix
    finite (Platt 1999).
    """
    x = np.concatenate([true, wrong]).astype(np.float64)
    target = np.repeat([(len(true) + 1) / (len(true) + 2), 1 / (len(wrong) + 2)], [len(true), len(wrong)])
    middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    design = np.concatenate([(x - middle) / spread, np.ones((len(x), 1))], axis=1)
    weights = np.zeros(3)

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        return float((np.logaddexp(0, z) - target * z).sum())

    for _ in range(100):
        p = logistic(design @ weights)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(3)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        while loss(weights + step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    slopes = weights[:2] / spread
    return (float(slopes[0]), float(slopes[1])), float(weights[2] - slopes @ middle)


def logistic(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return 1 / (1 + exp(-x)), which never overflows."""
    return np.exp(-np.logaddexp(0, -x))
