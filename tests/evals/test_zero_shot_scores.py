"""The measures of zero-shot classification, by hand."""

import numpy as np
import pytest

from bridge_jax.evals.scores import zero_shot as scores


def test_measures_by_hand():
    ranks, labels = np.array([1, 2, 6, 1, 1]), np.array([0, 0, 0, 0, 4])
    found = scores.measures(ranks, labels, samples=500, seed=0)
    values = found["accuracy"], found["accuracy_at_5"], found["mean_per_class"]
    assert values == pytest.approx((60, 80, 75))
    assert 50 <= found["mean_per_class_low"] < 75 < found["mean_per_class_high"] <= 100
    np.testing.assert_array_equal(scores.ranks(np.array([[0.5, 0.5, 0.1]]), np.array([1])), [2])  # a tie
    with pytest.raises(FloatingPointError, match="zero_shot"):
        scores.ranks(np.array([[0.5, np.nan]]), np.array([0]))


def test_the_prompts_of_a_class_weigh_alike():
    prompts = np.array([[[1.0, 0], [0, 1]], [[1, 0], [1, 0]]])
    np.testing.assert_allclose(scores.class_embeddings(prompts), [[0.5**0.5] * 2, [1, 0]])
