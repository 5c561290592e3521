"""Test attention maps by deletion: do the patches that a map points at matter more than patches drawn at random?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

SAMPLES = 2000  # of the bootstrap


class Fall(NamedTuple):
    """The fall of the match logit without the most attended and without random patches, and their difference.

    `low` and `high` are the ends of the difference's 95 % interval over photos.
    """

    attended: float
    random: float
    difference: float
    low: float
    high: float

    @property
    def matters(self) -> bool:
        """Return whether the attended patches matter more than random ones: the interval lies above zero."""
        return self.low > 0


def most_attended(attention: Float[np.ndarray, "n patches"], share: float) -> Bool[np.ndarray, "n patches"]:
    """Mark the most attended patches of each row, a `share` of them and at least one; of equal ones the first."""
    count = _count(attention.shape[1], share)
    marked = np.zeros(attention.shape, bool)
    order = np.argsort(-attention, axis=1, kind="stable")[:, :count]
    np.put_along_axis(marked, order, True, axis=1)
    return marked


def random_patches(rows: int, patches: int, share: float, draws: int, seed: int) -> Bool[np.ndarray, "draws n patches"]:
    """Mark as many patches as `most_attended` does, drawn at random for each row and draw."""
    noise = np.random.default_rng(seed).random((draws * rows, patches))
    return most_attended(noise, share).reshape(draws, rows, patches)


def fall(
    whole: Float[np.ndarray, "n"],
    attended: Float[np.ndarray, "n"],
    random: Float[np.ndarray, "draws n"],
    photos: np.ndarray,
    seed: int,
) -> Fall:
    """Return how far the match logit of n pairs falls, averaged over the draws and the captions of a photo.

    `whole`, `attended` and `random` are the logits with all patches, without the attended ones, and without random
    ones; `photos` [n] names the photo of each pair. The interval is the bootstrap's, over photos.
    """
    names, inverse = np.unique(photos, return_inverse=True)
    falls = np.stack([whole - attended, whole - random.mean(axis=0)])
    mean = np.stack([np.bincount(inverse, each) for each in falls]) / np.bincount(inverse)
    difference = mean[0] - mean[1]
    drawn = np.random.default_rng(seed).integers(len(names), size=(SAMPLES, len(names)))
    low, high = np.percentile(difference[drawn].mean(axis=1), (2.5, 97.5))
    return Fall(float(mean[0].mean()), float(mean[1].mean()), float(difference.mean()), float(low), float(high))


def _count(patches: int, share: float) -> int:
    return max(1, round(share * patches))
