"""bridge_jax/analysis/gap.py, against loops and against sets whose numbers are known."""

import math

import numpy as np
import pytest

from bridge_jax.analysis import gap


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pairs():
    draw = np.random.default_rng(0)
    images = unit(draw.normal(size=(60, 8)))
    return images, unit(images + 0.4 * draw.normal(size=images.shape))


def test_alignment_and_uniformity_are_the_loops(pairs):
    images, texts = pairs
    squared = [sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for u, v in zip(images, texts, strict=True)]
    assert gap.alignment(images, texts) == pytest.approx(sum(squared) / len(squared))
    kernel = [math.exp(-2 * sum((a - b) ** 2 for a, b in zip(images[i], images[j], strict=True)))
              for i in range(60) for j in range(i)]  # fmt: skip
    assert gap.uniformity(images) == pytest.approx(math.log(sum(kernel) / len(kernel)))


def test_shuffled_pairs_are_as_far_apart_as_a_sphere_is_wide(pairs):
    images, texts = pairs
    shuffled = np.random.default_rng(1).permutation(60)
    assert gap.alignment(images, texts) < 0.8 < gap.alignment(images, texts[shuffled])
    assert gap.centroid_distance(images, texts) == pytest.approx(gap.centroid_distance(images, texts[shuffled]))


def test_the_centroid_distance_is_that_of_the_means():
    images, texts = unit([[1, 0], [0, 1]]), unit([[-1, 0], [0, -1]])
    assert gap.centroid_distance(images, texts) == pytest.approx(math.sqrt(2))


def test_sets_on_either_side_of_a_plane_are_told_apart_and_one_set_is_not():
    draw = np.random.default_rng(2)
    cloud, other = unit(draw.normal(size=(400, 6))), unit(draw.normal(size=(400, 6)))
    assert gap.separability(cloud, other) == pytest.approx(0.5, abs=0.06)
    apart = [unit(rows * [0, 1, 1, 1, 1, 1] + [side, 0, 0, 0, 0, 0]) for rows, side in ((cloud, 0.3), (other, -0.3))]
    assert gap.separability(*apart) == 1.0


def test_separability_is_scored_on_pairs_that_were_not_fitted():
    """With more directions than rows a plane fits any labels; held-out rows stay at chance."""
    draw = np.random.default_rng(3)
    images, texts = unit(draw.normal(size=(40, 200))), unit(draw.normal(size=(40, 200)))
    assert gap.separability(images, texts) < 0.7


def test_separability_is_least_squares_by_hand(pairs):
    images, texts = pairs
    right = 0
    for held in np.array_split(np.random.default_rng(0).permutation(60), 5):
        kept = [i for i in range(60) if i not in held]
        x = np.concatenate([images[kept], texts[kept]])
        solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], np.repeat([1.0, -1.0], len(kept)), rcond=None)[0]
        for rows, sign in ((images, 1), (texts, -1)):
            right += sum(sign * (row @ solution[:-1] + solution[-1]) > 0 for row in rows[held])
    assert gap.separability(images, texts) == pytest.approx(right / 120, abs=0.03)
