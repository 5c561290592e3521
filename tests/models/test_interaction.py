"""The interaction layer against a slow twin: plain loops in float64 over pairs, heads, queries and keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.models.interaction import CosineAttention, Interaction
from bridge_jax.models.token_similarity import greatest
from tests import tiny

B, P, T, IMAGE, TEXT = 3, 5, 6, 32, 16
MASK = np.arange(T) < np.array([[T], [4], [2]])
# The twin is float64, the block float32: sums of some 40 products of size one.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def states(seed: int = 1):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(B, P, IMAGE)).astype(np.float32), draw.normal(size=(B, T, TEXT)).astype(np.float32)


def block(design: str, **changes):
    """Return the module and parameters ALL drawn at random: gates, temperatures and position biases among them."""
    cfg = dataclasses.replace(tiny.config().bridge, design=design, **changes)
    module, image_text = Interaction(cfg, jnp.dtype("float32")), states()
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *image_text, MASK, True))["params"]
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draw.normal(scale=0.25, size=leaf.shape).astype(np.float32), shapes)
    return module, params


def affine(p, x):
    return x @ p["kernel"].astype(np.float64) + p["bias"]


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def softmax(logits):
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def cross_attend(p, query, other, real, heads):
    """Attend for one pair in one direction: per head and query, a softmax of cosine logits over the `real` keys."""
    q, k, v = affine(p["query"], query), affine(p["key"], other), affine(p["value"], other)
    tau = np.log1p(np.exp(np.float64(p["tau"])))
    width = q.shape[1] // heads
    out, weights = np.zeros_like(q), np.zeros((len(query), len(other)))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for row in range(len(query)):
            keys = [m for m in range(len(other)) if real[m]]
            cosines = [
                q[row, part] @ k[m, part] / np.linalg.norm(q[row, part]) / np.linalg.norm(k[m, part]) for m in keys
            ]
            probabilities = softmax(
                np.array([c / tau + p["position_bias"][row, m] for c, m in zip(cosines, keys, strict=True)])
            )
            for m, weight in zip(keys, probabilities, strict=True):
                out[row, part] += weight * v[m, part]
                weights[row, m] += weight / heads
    return affine(p["out"], out), weights


def self_attend(p, x, real, heads):
    q, k, v = (affine(p[name], x) for name in ("query", "key", "value"))
    width = x.shape[1] // heads
    out, keys = np.zeros_like(q), np.flatnonzero(real)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for row in range(len(x)):
            out[row, part] = softmax(k[keys, part] @ q[row, part] / np.sqrt(width)) @ v[keys, part]
    return affine(p["out"], out)


def pooled(p, other, real, rows):
    return np.repeat(affine(p["out"], affine(p["value"], other[real].mean(axis=0)))[None], rows, axis=0), None


def twin(p, image, text, real, design, heads):
    """Compute Eq. 1-3 for one pair."""
    every = np.ones(len(image), bool)
    z_v = affine(p["image_to_shared"], norm(p["image_norm"], image))
    z_t = affine(p["text_to_shared"], norm(p["text_norm"], text))
    if design == "self_cross":
        z_v = z_v + self_attend(p["image_self_attention"], norm(p["image_self_norm"], z_v), every, heads)
        z_t = z_t + self_attend(p["text_self_attention"], norm(p["text_self_norm"], z_t), real, heads)
    if design == "pooled":
        (a_t, tv), (a_v, vt) = pooled(p["text_over_image"], z_v, every, T), pooled(p["image_over_text"], z_t, real, P)
    else:
        a_t, tv = cross_attend(p["text_over_image"], z_t, z_v, every, heads)
        a_v, vt = cross_attend(p["image_over_text"], z_v, z_t, real, heads)
    image = image + sigmoid(p["image_gate"]) * affine(p["shared_to_image"], a_v)
    text = text + sigmoid(p["text_gate"]) * affine(p["shared_to_text"], a_t)
    return image, text, tv, vt


@pytest.mark.parametrize("design", ["cross", "self_cross", "pooled"])
def test_equals_the_slow_twin(design):
    module, params = block(design)
    image, text = states()
    outputs = module.apply({"params": params}, image, text, MASK, True)
    assert [x.shape for x in outputs[:2]] == [(B, P, IMAGE), (B, T, TEXT)]
    for i in range(B):
        expected = twin(params, np.float64(image[i]), np.float64(text[i]), MASK[i], design, module.cfg.heads)
        for ours, theirs in zip(outputs, expected, strict=True):
            if theirs is None:
                assert ours is None
            else:
                np.testing.assert_allclose(ours[i], theirs, **CLOSE)


@pytest.mark.parametrize("design", ["cross", "self_cross"])
def test_attention_is_a_distribution_over_real_keys(design):
    module, params = block(design)
    *_, tv, vt = module.apply({"params": params}, *states(), MASK, True)
    assert tv.shape == (B, T, P)
    assert vt.shape == (B, P, T)
    np.testing.assert_allclose(tv.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(vt.sum(-1), 1, rtol=1e-6)
    assert (np.asarray(vt)[np.broadcast_to(~MASK[:, None], vt.shape)] == 0).all()


def test_starts_at_the_configured_gate_and_temperature():
    module, _ = block("cross", gate_start=0.27, tau_start=0.07)
    params = module.init(jax.random.key(0), *states(), MASK, True)["params"]
    for side, direction in (("image", "image_over_text"), ("text", "text_over_image")):
        assert jax.nn.sigmoid(params[f"{side}_gate"]) == pytest.approx(0.27, rel=1e-5)
        assert jax.nn.softplus(params[direction]["tau"]) == pytest.approx(0.07, rel=1e-5)
        assert not params[direction]["position_bias"].any()


def test_a_zero_query_has_a_finite_gradient():
    """The cosine of a zero vector gives uniform attention and a gradient without NaN."""
    module = CosineAttention(2, 0.1, 0.0, jnp.dtype("float32"))
    other = states()[0]
    variables = module.init(jax.random.key(0), jnp.zeros((B, T, IMAGE)), other, None, True)

    def total(query):
        out, weights = module.apply(variables, query, other, None, True)
        return out.sum(), weights

    gradient, weights = jax.grad(total, has_aux=True)(jnp.zeros((B, T, IMAGE)))
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(weights, 1 / P, rtol=1e-6)


def test_dropout_acts_on_attention_and_on_the_update():
    """If the whole update is dropped, the states return; attention dropout leaves the returned weights unchanged."""
    image, text = states()
    module, params = block("cross", output_dropout=1.0)
    outputs = module.apply({"params": params}, image, text, MASK, False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(outputs[0], image)
    np.testing.assert_array_equal(outputs[1], text)
    module, params = block("cross", attention_dropout=0.5)
    dropped = module.apply({"params": params}, image, text, MASK, False, rngs={"dropout": jax.random.key(0)})
    whole = module.apply({"params": params}, image, text, MASK, True)
    assert not np.allclose(dropped[0], whole[0])
    np.testing.assert_array_equal(dropped[2], whole[2])


def test_bfloat16_keeps_attention_in_float32():
    module, params = block("cross")
    image, text = (jnp.asarray(x, jnp.bfloat16) for x in states())
    half = Interaction(module.cfg, jnp.dtype("bfloat16")).apply({"params": params}, image, text, MASK, True)
    full = module.apply({"params": params}, image.astype(jnp.float32), text.astype(jnp.float32), MASK, True)
    assert [x.dtype.name for x in half] == ["bfloat16", "bfloat16", "float32", "float32"]
    for ours, theirs in zip(half, full, strict=True):
        # Eight bits of mantissa through six matrix products.
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.05 * np.abs(theirs).max())
    np.testing.assert_allclose(half[2].sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greatest_is_the_maximum_and_equal_maxima_share_its_gradient(dtype):
    """Rows with one maximum, with two, and with equal elements only, as if all words were masked."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(3, 4, 7)), dtype)
    x = x.at[1, :, 2].set(x[1].max(axis=-1)).at[2].set(-1.0)
    weight = jnp.asarray(draw.normal(size=(3, 4)), dtype)
    ours, jaxs = (
        jax.jit(jax.value_and_grad(lambda x, largest=largest: (largest(x) * weight).sum()))(x)
        for largest in (greatest, lambda x: x.max(axis=-1))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, jaxs)
    assert [len(np.unique(rows)) for rows in np.asarray(ours[1][:, 0])] == [2, 2, 1]
