"""Binary cross entropy of every answer against a loop in float64, and the score of the predicted answer."""

import numpy as np
import pytest

from bridge_jax.config import ConfigError, objectives
from bridge_jax.losses import vqa
from bridge_jax.types import Batch, Outputs

B, A = 3, 4
draw = np.random.default_rng(0)
LOGITS = draw.normal(size=(B, A)).astype(np.float32)
SCORES = np.array([[1, 0, 0.3, 0], [0, 0, 0, 0], [0.6, 0.9, 0, 0]], np.float32)
BATCH = Batch(image_ids=np.arange(B), text_mask=np.ones((B, 2), bool), extras={"answer_scores": SCORES})


def compute_loss(logits):
    return vqa.loss(Outputs(logit_scale=1.0, own={"vqa": logits}), BATCH, answers=A)


def test_equals_the_loop():
    expected = 0.0
    for logit, score in zip(LOGITS.ravel().astype(np.float64), SCORES.ravel(), strict=True):
        p = 1 / (1 + np.exp(-logit))
        expected -= score * np.log(p) + (1 - score) * np.log(1 - p)
    loss = compute_loss(LOGITS)
    assert loss.sum == pytest.approx(expected, rel=1e-5)
    assert loss.count == B
    assert loss.mean == pytest.approx(expected / B, rel=1e-5)


def test_accuracy_is_the_score_of_the_predicted_answer():
    best = np.array([[9, 0, 0, 0], [0, 9, 0, 0], [9, 0, 0, 0]], np.float32)
    assert compute_loss(best).metrics["accuracy"] == pytest.approx((1 + 0 + 0.6) / 3)
    assert compute_loss(-best - SCORES).metrics["accuracy"] < 0.1


def test_the_loss_is_lowest_at_the_scores_themselves():
    logits = np.log((SCORES + 1e-6) / (1 - SCORES + 1e-6))
    for shift in (-0.1, 0.1):
        assert compute_loss(logits).sum < compute_loss(logits + shift).sum


def test_the_config_must_state_the_number_of_answers():
    with pytest.raises(ConfigError, match=r"config\.losses\.vqa\.answers is missing"):
        objectives.bind("vqa", {"weight": 1.0})
