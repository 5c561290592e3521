"""Image-text matching on hand-made logits: the pairs that count, and their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.losses import itm
from bridge_jax.types import Batch, Candidates, Outputs

VALID = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], bool)
BY_TEXT = np.array([[2.0, -1.0, 0.5], [-0.5, 9.0, 1.0], [3.0, 9.0, 9.0]], np.float32)
BY_IMAGE = np.array([[1.0, 1.0, -2.0], [0.3, 9.0, -0.7], [0.0, 9.0, 9.0]], np.float32)
BATCH = Batch(image_ids=np.arange(3), text_mask=np.ones((3, 1), bool))


def outputs(by_text=BY_TEXT, by_image=BY_IMAGE, valid=VALID):
    made = [Candidates(similarity=None, itm_logit=jnp.asarray(x), unimodal=None, valid=jnp.asarray(valid))
            for x in (by_text, by_image)]  # fmt: skip
    return Outputs(logit_scale=1.0, by_text=made[0], by_image=made[1])


def by_loop():
    """Return the summed loss and weight; a true pair weighs as much as all valid wrong pairs of its query."""
    total = weight = 0.0
    for logits in (BY_TEXT, BY_IMAGE):
        for row, valid in zip(logits, VALID, strict=True):
            wrong = [logit for logit, v in zip(row[1:], valid[1:], strict=True) if v]
            total += len(wrong) * np.log1p(np.exp(-row[0])) + sum(np.log1p(np.exp(logit)) for logit in wrong)
            weight += 2 * len(wrong)
    return total, weight


def test_equals_the_loop():
    result, (total, weight) = itm.loss(outputs(), BATCH), by_loop()
    assert weight == 12
    assert result.count == weight
    assert result.sum == pytest.approx(total, rel=1e-6)


def test_two_way_accuracy_counts_ties_as_wrong():
    """Valid wrong pairs: text 0 beats two, text 1 loses one; image 0 ties one and beats one, image 1 beats one."""
    assert itm.loss(outputs(), BATCH).metrics["two_way_accuracy"] == pytest.approx(4 / 6)


def test_both_classes_weigh_the_same():
    """Among equal logits for all pairs, zero (a probability of one half) has the lowest loss."""
    gradient = jax.grad(lambda logit: itm.loss(outputs(logit + 0 * BY_TEXT, logit + 0 * BY_IMAGE), BATCH).sum)
    assert gradient(0.0) == pytest.approx(0, abs=1e-6)
    assert gradient(0.5) > 0 > gradient(-0.5)


def test_invalid_pairs_get_no_gradient():
    gradient = np.asarray(jax.grad(lambda x: itm.loss(outputs(by_text=x), BATCH).sum)(jnp.asarray(BY_TEXT)))
    assert (gradient[~VALID] == 0).all()
    assert (gradient[2] == 0).all()
    assert (gradient[:2, 0] < 0).all()
    assert (gradient[0, 1:] > 0).all()


def test_a_batch_of_one_photo_counts_nothing():
    result = itm.loss(outputs(valid=np.array([[1, 0, 0]] * 3, bool)), BATCH)
    assert (result.sum, result.count, result.mean, result.metrics["two_way_accuracy"]) == (0, 0, 0, 0)


def test_huge_logits_stay_finite():
    result = itm.loss(outputs(by_text=np.float32([[-1e4, 1e4, 1e4]] * 3)), BATCH)
    assert jnp.isfinite(result.sum)
