"""The sigmoid loss against an explicit loop over pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.losses import sigmoid
from bridge_jax.step.params import init_params, param_shapes
from bridge_jax.types import Batch, Outputs
from tests import tiny

IDS = np.array([7, 3, 7, 9, 3, 7])
B, E = len(IDS), 4


def outputs_and_batch(ids=IDS, scale=5.0, bias=-2.0):
    draw = np.random.default_rng(0)
    text, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in draw.normal(size=(2, B, E)))
    outputs = Outputs(
        logit_scale=jnp.float32(scale),
        own={"sigmoid": jnp.float32(bias)},
        unimodal_text=jnp.float32(text),
        unimodal_image=jnp.float32(image),
    )
    return outputs, Batch(image_ids=ids, text_mask=np.ones((B, 1), bool))


def by_loop(outputs, ids):
    text, image = np.float64(outputs.unimodal_text), np.float64(outputs.unimodal_image)
    total = 0.0
    for i in range(B):
        for j in range(B):
            z = 1 if ids[i] == ids[j] else -1
            total += np.log1p(
                np.exp(-z * (float(outputs.logit_scale) * text[i] @ image[j] + float(outputs.own["sigmoid"])))
            )
    return total / B


@pytest.mark.parametrize("ids", [IDS, np.arange(B), np.zeros(B, int)], ids=["some alike", "all differ", "all alike"])
@pytest.mark.parametrize("chunk_columns", [0, 1, 4, 6, 100])
def test_equals_the_loop_at_any_chunk_size(ids, chunk_columns):
    outputs, batch = outputs_and_batch(ids)
    result = sigmoid.loss(outputs, batch, chunk_columns)
    assert float(result.mean) == pytest.approx(by_loop(outputs, ids), rel=1e-5)
    best = (outputs.unimodal_text @ outputs.unimodal_image.T).argmax(axis=1)
    assert float(result.metrics["accuracy"]) == pytest.approx(np.mean(ids[np.asarray(best)] == ids))


@pytest.mark.parametrize("chunk_columns", [1, 4, 100])
def test_chunks_have_the_gradient_of_the_whole(chunk_columns):
    outputs, batch = outputs_and_batch()

    def gradient(columns):
        return jax.grad(lambda outputs: sigmoid.loss(outputs, batch, columns).mean)(outputs)

    for chunked, whole in zip(jax.tree.leaves(gradient(chunk_columns)), jax.tree.leaves(gradient(0)), strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-7)


def test_perfect_scores_have_no_loss():
    outputs, batch = outputs_and_batch(np.arange(B))
    apart = dict(logit_scale=100.0, own={"sigmoid": -50.0})
    outputs = outputs.replace(unimodal_text=jnp.eye(B), unimodal_image=jnp.eye(B), **apart)
    assert sigmoid.loss(outputs, batch, 0).mean == pytest.approx(0, abs=1e-6)


def test_only_runs_with_the_loss_have_its_bias():
    shapes = param_shapes(tiny.config(stage=dict(losses=("sigmoid",))))
    assert shapes["heads"]["sigmoid"]["bias"].shape == ()
    assert "sigmoid" not in param_shapes(tiny.config())["heads"]
    assert init_params(tiny.config(stage=dict(losses=("sigmoid",))))["heads"]["sigmoid"]["bias"] == -10
