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


def given(ids=IDS, scale=5.0, bias=-2.0):
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
def test_equals_the_loop_in_any_chunks(ids, chunk_columns):
    outputs, batch = given(ids)
    found = sigmoid.loss(outputs, batch, chunk_columns)
    assert float(found.mean) == pytest.approx(by_loop(outputs, ids), rel=1e-5)
    best = (outputs.unimodal_text @ outputs.unimodal_image.T).argmax(axis=1)
    assert float(found.metrics["accuracy"]) == pytest.approx(np.mean(ids[np.asarray(best)] == ids))


@pytest.mark.parametrize("chunk_columns", [1, 4, 100])
def test_chunks_have_the_gradient_of_the_whole(chunk_columns):
    outputs, batch = given()

    def gradient(columns):
        return jax.grad(lambda outputs: sigmoid.loss(outputs, batch, columns).mean)(outputs)

    for one, other in zip(jax.tree.leaves(gradient(chunk_columns)), jax.tree.leaves(gradient(0)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_perfect_batch_costs_nothing():
    outputs, batch = given(np.arange(B))
    apart = dict(logit_scale=100.0, own={"sigmoid": -50.0})
    outputs = outputs.replace(unimodal_text=jnp.eye(B), unimodal_image=jnp.eye(B), **apart)
    assert sigmoid.loss(outputs, batch, 0).mean == pytest.approx(0, abs=1e-6)


def test_the_bias_is_a_parameter_of_its_runs_alone():
    made = param_shapes(tiny.config(stage=dict(losses=("sigmoid",))))
    assert made["heads"]["sigmoid"]["bias"].shape == ()
    assert "sigmoid" not in param_shapes(tiny.config())["heads"]
    assert init_params(tiny.config(stage=dict(losses=("sigmoid",))))["heads"]["sigmoid"]["bias"] == -10
