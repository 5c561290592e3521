"""The mean of scores: an interval that holds what it says, over pictures and not over questions."""

import numpy as np
import pytest

from bridge_jax.evals.scores import accuracy


def test_it_is_the_mean_in_percent():
    found = accuracy.mean(np.array([1.0, 0.3, 0.0, 0.6]), np.array([0, 0, 1, 2]), 100, 0)
    assert found["accuracy"] == pytest.approx(47.5)
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = np.random.default_rng(0), 0
    for trial in range(200):
        scores = draw.random(150) < 0.7
        found = accuracy.mean(scores, np.arange(150), 300, trial)
        covered += found["accuracy_low"] <= 70 <= found["accuracy_high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_questions_about_one_picture_are_drawn_together():
    """Ten copies of a score say no more than one: the interval is that of the pictures."""
    scores = (np.random.default_rng(0).random(60) < 0.5).astype(float)
    one = accuracy.mean(scores, np.arange(60), 500, 3)
    copies = accuracy.mean(np.repeat(scores, 10), np.repeat(np.arange(60), 10), 500, 3)
    assert copies == pytest.approx(one)
    apart = accuracy.mean(np.repeat(scores, 10), np.arange(600), 500, 3)
    assert apart["accuracy_high"] - apart["accuracy_low"] < 0.5 * (one["accuracy_high"] - one["accuracy_low"])


def test_what_cannot_be_averaged_is_an_error():
    with pytest.raises(FloatingPointError, match="a score is NaN"):
        accuracy.mean(np.array([1.0, np.nan]), np.arange(2), 10, 0)
    for scores, clusters, samples in (([], [], 10), ([1.0], [0, 1], 10), ([1.0], [0], 0)):
        with pytest.raises(ValueError, match="expected one cluster for each"):
            accuracy.mean(np.array(scores), np.array(clusters), samples, 0)
