"""Say no: turn the match logit into a probability, and into a threshold below which no photo matches.

Both come from held-out pairs, searched as a user would: a caption looks for its photo among those of the split, and the
bridge sees the best candidates. Two logits count of each caption, that of its own photo and the highest of the wrong
candidates. The latter is the best answer where the own photo is not in the index.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

KEPT = 0.9  # share of the true pairs above the threshold


@dataclasses.dataclass(frozen=True)
class Refusal:
    """probability = 1 / (1 + exp(-(slope x logit + offset))); a photo matches at `threshold` or more."""

    threshold: float
    slope: float
    offset: float
    false_alarms: float  # share of the captions whose best wrong candidate is above the threshold
    captions: int  # that it was made of
    photos: int  # that they were searched in

    def probability(self, logits: Float[np.ndarray, " n"]) -> list[float]:
        """Return how likely the text is true of each photo, were as many true as false."""
        return (1 / (1 + np.exp(-(self.slope * np.float64(logits) + self.offset)))).tolist()


def calibrate(true: Float[np.ndarray, " n"], wrong: Float[np.ndarray, " n"], photos: int) -> Refusal:
    """Make the refusal of n captions: the logits with their own photos, and the highest with wrong ones."""
    slope, offset = platt(true, wrong)
    threshold = float(np.quantile(true, 1 - KEPT, method="lower"))
    return Refusal(threshold, slope, offset, float(np.mean(wrong >= threshold)), len(true), photos)


def platt(true: Float[np.ndarray, " n"], wrong: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Fit slope and offset of a logistic curve by Newton's method (Platt 1999, with his targets, which keep it finite).

    The targets are (n + 1) / (n + 2) and 1 / (m + 2) in place of 1 and 0.
    """
    x = np.concatenate([true, wrong]).astype(np.float64)
    target = np.repeat([(len(true) + 1) / (len(true) + 2), 1 / (len(wrong) + 2)], [len(true), len(wrong)])
    middle, spread = x.mean(), x.std() or 1.0
    design = np.stack([(x - middle) / spread, np.ones_like(x)], axis=1)
    weights = np.zeros(2)

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        return float((np.logaddexp(0, z) - target * z).sum())

    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        while loss(weights + step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0] / spread), float(weights[1] - weights[0] * middle / spread)
