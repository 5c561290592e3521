"""Masked language modelling: cross entropy at the masked positions only."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from bridge_jax.losses import mlm
from bridge_jax.types import Batch, Outputs

B, T, V = 2, 4, 5
IDS = np.array([[1, 2, 3, 4], [4, 0, 2, 2]])
MASKED = np.array([[0, 1, 1, 0], [0, 0, 1, 0]], bool)
LOGITS = np.random.default_rng(0).normal(size=(B, T, V)).astype(np.float32)
BATCH = Batch(image_ids=np.arange(B), text_mask=np.ones((B, T), bool), ids=IDS, extras={"masked_text": MASKED})
loss = partial(mlm.loss, mask_fraction=0.15)


def test_equals_the_loop():
    result = loss(Outputs(logit_scale=1.0, own={"mlm": LOGITS}), BATCH)
    cells = [(i, t) for i in range(B) for t in range(T) if MASKED[i, t]]
    expected = sum(np.log(np.exp(np.float64(LOGITS[c])).sum()) - LOGITS[c][IDS[c]] for c in cells)
    assert result.count == 3
    assert result.sum == pytest.approx(expected, rel=1e-5)
    assert result.metrics["accuracy"] == pytest.approx(np.mean([LOGITS[c].argmax() == IDS[c] for c in cells]))


def test_accuracy_counts_only_masked_positions():
    right = np.where(np.arange(V) == IDS[..., None], 9.0, 0.0)
    assert loss(Outputs(logit_scale=1.0, own={"mlm": right}), BATCH).metrics["accuracy"] == 1
    wrong_where_masked = np.where(MASKED[..., None], -right, right)
    assert loss(Outputs(logit_scale=1.0, own={"mlm": wrong_where_masked}), BATCH).metrics["accuracy"] == 0


def test_other_positions_get_no_gradient():
    gradient = jax.grad(lambda logits: loss(Outputs(logit_scale=1.0, own={"mlm": logits}), BATCH).sum)(LOGITS)
    assert ((np.abs(gradient).max(axis=-1) > 0) == MASKED).all()


def test_nothing_masked_counts_nothing():
    unmasked = dataclasses.replace(BATCH, extras={"masked_text": np.zeros((B, T), bool)})
    result = loss(Outputs(logit_scale=1.0, own={"mlm": LOGITS}), unmasked)
    assert (result.sum, result.count, result.mean, result.metrics["accuracy"]) == (0, 0, 0, 0)
