"""The heads against the same formulas in NumPy."""

import dataclasses
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.models import heads
from tests import tiny

BRIDGE = tiny.config().bridge
E = BRIDGE.embed_width
F32 = jnp.dtype("float32")


def drawn(module, *inputs):
    """Return parameters ALL drawn at random."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


def unit(rows, seed):
    x = np.random.default_rng(seed).normal(size=(rows, E)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_projection_is_linear_and_normalised():
    pooled = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    module = heads.Projection(E)
    params = drawn(module, pooled)
    expected = pooled @ params["linear"]["kernel"] + params["linear"]["bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(module.apply({"params": params}, pooled), expected, rtol=1e-5, atol=1e-6)


def test_match_head_equals_its_formula():
    text, image = unit(4, 0), unit(4, 1)
    module = heads.MatchHead(BRIDGE)
    p = drawn(module, text, image)
    cosine = (text * image).sum(1)
    hidden = np.concatenate([text, image, cosine[:, None]], axis=1) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    mlp = np.maximum(hidden, 0) @ p["out"]["kernel"] + p["out"]["bias"]
    expected = p["scale"] * (cosine - p["threshold"]) + mlp[:, 0]
    np.testing.assert_allclose(module.apply({"params": p}, text, image), expected, rtol=1e-5, atol=1e-5)
    assert p["hidden"]["kernel"].shape == (2 * E + 1, E)


def test_match_head_starts_as_the_scaled_cosine_above_a_threshold():
    text, image = unit(4, 0), unit(4, 1)
    module = heads.MatchHead(BRIDGE)
    logits = module.apply(module.init(jax.random.key(0), text, image), text, image)
    expected = BRIDGE.logit_scale_start * ((text * image).sum(1) - BRIDGE.match_threshold_start)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_masked_head_equals_its_formula():
    """D -> D, LayerNorm, exact GELU -> target."""
    states = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    module = heads.MaskedHead(5, F32)
    p = drawn(module, states)
    y = states @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    y = y * p["norm"]["scale"] + p["norm"]["bias"]
    y = np.vectorize(lambda v: v * (1 + erf(v / 2**0.5)) / 2)(y)
    expected = y @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply({"params": p}, states), expected, rtol=1e-4, atol=1e-5)
    half = heads.MaskedHead(5, jnp.dtype("bfloat16")).apply({"params": p}, jnp.asarray(states, jnp.bfloat16))
    assert half.dtype == F32


@pytest.mark.parametrize(
    ("log_scale", "expected", "slope"),
    [(np.log(20.0), 20.0, 20.0), (np.log(49.9), 49.9, 49.9), (np.log(50.0) + 0.1, 50.0, 0.0), (9.0, 50.0, 0.0)],
)
def test_logit_scale_is_clamped_and_so_is_its_gradient(log_scale, expected, slope):
    cfg = dataclasses.replace(tiny.config(), bridge=dataclasses.replace(BRIDGE, logit_scale_max=50.0))
    module = heads.Heads(cfg)

    def scale(raw):
        return module.apply({"params": {"log_scale": raw}}, method="logit_scale")

    value, gradient = jax.value_and_grad(scale)(jnp.float32(log_scale))
    assert value == pytest.approx(expected, rel=1e-5)
    assert gradient == pytest.approx(slope, rel=1e-5)


def test_logit_scale_starts_as_configured():
    module = heads.Heads(dataclasses.replace(tiny.config(), bridge=BRIDGE))
    variables = module.init(jax.random.key(0), method="logit_scale")
    assert module.apply(variables, method="logit_scale") == pytest.approx(BRIDGE.logit_scale_start, rel=1e-6)


def test_classifier_equals_its_formula():
    """Twice D -> S, LayerNorm, exact GELU, then the logits; no dropout if deterministic."""
    pooled = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    module = heads.Classifier(5, 12, F32)
    p = drawn(module, pooled, True)
    y = pooled
    for layer in range(2):
        y = y @ p[f"hidden_{layer}"]["kernel"] + p[f"hidden_{layer}"]["bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        y = y * p[f"norm_{layer}"]["scale"] + p[f"norm_{layer}"]["bias"]
        y = np.vectorize(lambda v: v * (1 + erf(v / 2**0.5)) / 2)(y)
    expected = y @ p["out"]["kernel"] + p["out"]["bias"]
    logits = module.apply({"params": p}, pooled, True)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    dropped = module.apply({"params": p}, pooled, False, rngs={"dropout": jax.random.key(0)})
    assert np.abs(dropped - logits).max() > 1e-2
    half = heads.Classifier(5, 12, jnp.dtype("bfloat16")).apply({"params": p}, pooled, True)
    assert half.dtype == F32
