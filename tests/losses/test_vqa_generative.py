"""The likelihood of whole answers against a loop in float64."""

import numpy as np
import pytest
import scipy.special

from bridge_jax.config import ConfigError, objectives
from bridge_jax.losses import vqa_generative
from bridge_jax.types import Batch, Outputs

B, T, V = 4, 5, 7
draw = np.random.default_rng(0)
LOGITS = draw.normal(size=(B, T - 1, V)).astype(np.float32)
IDS = draw.integers(0, V, (B, T)).astype(np.int32)
MASK = np.arange(T) < np.array([[5], [3], [0], [2]])


def compute_loss(logits=LOGITS, ids=IDS):
    answered = {"answer_ids": ids, "answer_mask": MASK}
    batch = Batch(image_ids=np.arange(B), text_mask=np.ones((B, 2), bool), extras=answered)
    return vqa_generative.loss(Outputs(logit_scale=1.0, own={"vqa_generative": logits}), batch)


def test_equals_the_loop_over_words_averaged_over_answers():
    """A row without an answer does not count."""
    log_probs, expected = scipy.special.log_softmax(LOGITS.astype(np.float64), axis=-1), 0.0
    for row, length in enumerate((5, 3, 0, 2)):
        for t in range(1, length):
            expected -= log_probs[row, t - 1, IDS[row, t]]
    assert compute_loss().sum == pytest.approx(expected, rel=1e-5)
    assert compute_loss().count == 3
    assert compute_loss().mean == pytest.approx(expected / 3, rel=1e-5)


def test_padding_after_an_answer_changes_nothing():
    other = np.where(MASK, IDS, (IDS + 1) % V)
    assert compute_loss(ids=other).sum == compute_loss().sum
    assert compute_loss(ids=other).metrics == compute_loss().metrics


def test_accuracy_counts_answers_with_every_word_correct():
    right = np.eye(V, dtype=np.float32)[IDS[:, 1:]]
    assert compute_loss(right).metrics["accuracy"] == 1
    right[0, 3] = np.roll(right[0, 3], 1)
    assert compute_loss(right).metrics["accuracy"] == pytest.approx(2 / 3)
    right[1, 2] = np.roll(right[1, 2], 1)  # after the end
    assert compute_loss(right).metrics["accuracy"] == pytest.approx(2 / 3)


def test_its_only_setting_is_its_weight():
    objectives.bind("vqa_generative", {"weight": 1.0})
    with pytest.raises(ConfigError, match=r"config\.losses\.vqa_generative\.answers is not a key"):
        objectives.bind("vqa_generative", {"weight": 1.0, "answers": 5})
