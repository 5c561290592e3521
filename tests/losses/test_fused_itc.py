"""Fused contrast: the joint form against a loop over jointly fused candidates, the paper's form against its matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import ConfigError, objectives
from bridge_jax.losses import fused_itc, itc
from bridge_jax.types import Batch, Candidates, Fused, Outputs
from tests import tiny

# Query 0 has two valid partners, query 1 one, query 2 none, so it does not count.
VALID = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], bool)
BY_TEXT = np.array([[0.9, 0.1, 0.3], [0.2, 0.99, 0.5], [0.4, 0.8, 0.8]], np.float32)
BY_IMAGE = np.array([[0.5, 0.5, 0.1], [0.7, 0.0, 0.1], [0.1, 0.2, 0.3]], np.float32)
BATCH = Batch(image_ids=np.array([4, 5, 4]), text_mask=np.ones((3, 1), bool))


def candidates(similarity, valid=VALID):
    return Candidates(similarity=jnp.asarray(similarity), itm_logit=None, unimodal=None, valid=jnp.asarray(valid))


def outputs(by_text=BY_TEXT, by_image=BY_IMAGE, scale=8.0):
    return Outputs(logit_scale=jnp.float32(scale), by_text=candidates(by_text), by_image=candidates(by_image))


def by_loop(similarity, scale):
    """Return the sum of losses over queries with a valid wrong partner, and the number of these queries."""
    total, count = 0.0, 0
    for row, valid in zip(similarity, VALID, strict=True):
        if valid[1:].any():
            logits = [scale * s for s, v in zip(row, valid, strict=True) if v]
            total += np.log(np.sum(np.exp(logits))) - logits[0]
            count += 1
    return total, count


def test_joint_equals_the_loop_in_both_directions():
    result = fused_itc.loss(outputs(), BATCH, form="joint")
    (text, texts), (image, images) = by_loop(BY_TEXT, 8.0), by_loop(BY_IMAGE, 8.0)
    assert (texts, images) == (2, 2)
    assert result.count == 2
    assert result.sum == pytest.approx((text + image) / 2, rel=1e-5)


def test_joint_accuracy_counts_ties_as_wrong():
    """By text, query 0 is right and query 1 wrong; by image, query 0 ties and query 1 is right."""
    assert fused_itc.loss(outputs(), BATCH, form="joint").metrics["accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_an_invalid_partner_gets_no_gradient_and_makes_no_nan():
    def total(by_text):
        return fused_itc.loss(outputs(by_text=by_text), BATCH, form="joint").sum

    gradient = np.asarray(jax.grad(total)(jnp.asarray(BY_TEXT)))
    assert (gradient[~VALID] == 0).all()
    assert (gradient[2] == 0).all()
    assert (gradient[0, 0] < 0) & (gradient[0, 1:] > 0).all()


def test_a_batch_of_one_photo_counts_nothing():
    alone = np.array([[1, 0, 0]] * 3, bool)
    all_same = Outputs(logit_scale=1.0, by_text=candidates(BY_TEXT, alone), by_image=candidates(BY_IMAGE, alone))
    loss = fused_itc.loss(all_same, BATCH, form="joint")
    assert (loss.sum, loss.count, loss.mean, loss.metrics["accuracy"]) == (0, 0, 0, 0)


def test_paper_form_scores_true_pairs_against_each_other():
    draw = np.random.default_rng(0)
    text, image = draw.normal(size=(2, 3, 4)).astype(np.float32)
    fused = Fused(image=image, text=text, itm_logit=None, image_states=None, text_states=None)
    result = fused_itc.loss(Outputs(logit_scale=2.0, fused=fused), BATCH, form="paper")
    expected = itc.symmetric_info_nce(2.0 * text @ image.T, BATCH.image_ids)
    assert result.sum == pytest.approx(float(expected.sum), rel=1e-6)
    assert result.count == 3


def test_an_unknown_form_raises_config_error():
    losses = {"fused_itc": {"weight": 1.0, "form": "both"}}
    with pytest.raises(ConfigError, match=r"config\.losses\.fused_itc\.form: 'both' is unknown; known: joint, paper"):
        tiny.config(stage=dict(losses=("fused_itc",)), losses=losses)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("fused", {"weight": 1.0}, r"config\.losses\.fused is unknown; nearest: 'fused_itc'"),
        ("fused_itc", {"weight": 1.0, "from": 1}, r"config\.losses\.fused_itc\.from is not a key; nearest: 'form'"),
        ("fused_itc", {"weight": 1.0}, r"config\.losses\.fused_itc\.form is missing"),
    ],
)
def test_binding_names_the_wrong_key(name, arguments, line):
    with pytest.raises(ConfigError, match=line):
        objectives.bind(name, arguments)


def test_binding_returns_the_loss():
    loss = objectives.bind("fused_itc", {"weight": 3.0, "form": "joint"})
    assert loss(outputs(), BATCH).sum == fused_itc.loss(outputs(), BATCH, form="joint").sum
