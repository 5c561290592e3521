"""The binary cross entropy of judged statements against a loop in float64."""

import numpy as np
import pytest

from bridge_jax.config import ConfigError, objectives
from bridge_jax.losses import nlvr2
from bridge_jax.types import Batch, Outputs

B = 5
LOGITS = np.random.default_rng(0).normal(size=B).astype(np.float32)
TRUE = np.array([True, False, True, True, False])
MASK = np.ones((B, 2), bool)


def compute_loss(logits, pictures=2):
    images = np.zeros((B, 2, 4, 4, 3) if pictures == 2 else (B, 4, 4, 3), np.uint8)
    batch = Batch(image_ids=np.arange(B), text_mask=MASK, images=images, extras={"statement_true": TRUE})
    return nlvr2.loss(Outputs(logit_scale=1.0, own={"nlvr2": logits}), batch, pictures=pictures)


@pytest.mark.parametrize("pictures", [1, 2])
def test_equals_the_loop(pictures):
    expected = 0.0
    for logit, is_true in zip(LOGITS.astype(np.float64), TRUE, strict=True):
        p = 1 / (1 + np.exp(-logit))
        expected -= np.log(p if is_true else 1 - p)
    loss = compute_loss(LOGITS, pictures)
    assert loss.sum == pytest.approx(expected, rel=1e-5)
    assert loss.count == B


def test_accuracy_is_the_share_judged_correctly():
    assert compute_loss(np.where(TRUE, 0.1, -9.0).astype(np.float32)).metrics["accuracy"] == 1
    assert compute_loss(np.where(TRUE, -0.1, 9.0).astype(np.float32)).metrics["accuracy"] == 0
    assert compute_loss(np.full(B, 1.0, np.float32)).metrics["accuracy"] == pytest.approx(3 / 5)


def test_a_wrong_number_of_pictures_fails():
    images = np.zeros((B, 4, 4, 3), np.uint8)
    batch = Batch(image_ids=np.arange(B), text_mask=MASK, images=images, extras={"statement_true": TRUE})
    with pytest.raises(AssertionError):
        nlvr2.loss(Outputs(logit_scale=1.0, own={"nlvr2": LOGITS}), batch, pictures=2)


def test_the_config_must_state_the_number_of_pictures():
    with pytest.raises(ConfigError, match=r"config\.losses\.nlvr2\.pictures is missing"):
        objectives.bind("nlvr2", {"weight": 1.0})
