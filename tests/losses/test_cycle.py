"""Cycle consistency against Eq. 5 as printed: both matrix products, of which it reads the diagonals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.losses import cycle
from bridge_jax.types import Batch, Fused, Outputs

B, T, P, Q = 3, 4, 7, 2
LENGTHS = np.array([T, 3, 1])
MASK = np.arange(T) < LENGTHS[:, None]


def attention(seed, sharp=1.0):
    """Return P_tv [B,T,P] and P_vt [B,P,T]; padding keys get no weight, as in the model."""
    draw = np.random.default_rng(seed)
    tv, vt = sharp * draw.normal(size=(B, T, P)), sharp * draw.normal(size=(B, P, T))
    vt = np.where(MASK[:, None], vt, -np.inf)
    return tuple(np.asarray(jax.nn.softmax(x, axis=-1), np.float32) for x in (tv, vt))


def outputs(layers):
    tv, vt = zip(*layers, strict=True)
    states = np.zeros((B, vt[0].shape[1], 1), np.float32)
    fused = Fused(
        image=None, text=None, itm_logit=None, image_states=states, text_states=None, text_over_image=tv,
        image_over_text=vt,
    )  # fmt: skip
    return Outputs(logit_scale=1.0, fused=fused)


BATCH = Batch(image_ids=np.arange(B), text_mask=MASK)


def by_products(tv, vt, length):
    """Return -(mean log diag(P_vt P_tv) + mean log diag(P_tv P_vt)) / 2 of one pair over its real tokens."""
    tv, vt = np.float64(tv[:length]), np.float64(vt[:, :length])
    image_PP, text_TT = vt @ tv, tv @ vt
    return -(np.log(np.diag(image_PP)).mean() + np.log(np.diag(text_TT)).mean()) / 2


def test_equals_the_product_form():
    layers = [attention(seed) for seed in range(Q)]
    result = cycle.loss(outputs(layers), BATCH)
    expected = [[by_products(tv[i], vt[i], LENGTHS[i]) for i in range(B)] for tv, vt in layers]
    assert result.count == B
    assert result.sum == pytest.approx(np.mean(expected, axis=0).sum(), rel=1e-5)
    for (tv, vt), row in zip(layers, expected, strict=True):
        np.testing.assert_allclose(cycle.pair_losses(tv, vt, MASK), row, rtol=1e-5)


def test_padding_changes_neither_value_nor_gradient():
    """This holds for the attention from padding tokens and for the attention to them."""
    tv, vt = attention(0)
    noisy = np.where(MASK[..., None], tv, 0.5).astype(np.float32), np.where(MASK[:, None], vt, 0.5).astype(np.float32)
    np.testing.assert_array_equal(cycle.pair_losses(tv, vt, MASK), cycle.pair_losses(*noisy, MASK))
    gradients = jax.grad(lambda pair: cycle.pair_losses(*pair, MASK).sum())((jnp.asarray(tv), jnp.asarray(vt)))
    assert (np.asarray(gradients[0])[~MASK] == 0).all()
    assert (np.asarray(gradients[1]).swapaxes(1, 2)[~MASK] == 0).all()


@pytest.mark.parametrize("sharp", [0.0, 1.0, 5.0, 30.0])
def test_the_loss_is_never_below_its_floor(sharp):
    floor = np.asarray(cycle.floor(jnp.asarray(LENGTHS), P))
    np.testing.assert_allclose(floor, np.log(P / LENGTHS) / 2, rtol=1e-6)
    for seed in range(5):
        assert (np.asarray(cycle.pair_losses(*attention(seed, sharp), MASK)) >= floor - 1e-6).all()


@pytest.mark.parametrize(("text", "image"), [(2, 6), (6, 2), (4, 4)])
def test_the_floor_is_reached(text, image):
    """The longer side is divided among the shorter: each token attends evenly to the tokens of its own group.

    With 2 words and 6 patches, each word attends evenly to its 3 patches and each patch to its word. The mean over
    patches is then log(3) and the mean over words 0; the loss is half their sum.
    """
    group = np.zeros((text, image), np.float32)
    for long in range(max(text, image)):
        group[(long * text // image, long) if image >= text else (long, long * image // text)] = 1
    tv, vt = group / group.sum(1, keepdims=True), group.T / group.T.sum(1, keepdims=True)
    loss = cycle.pair_losses(tv[None], vt[None], np.ones((1, text), bool))
    assert loss[0] == pytest.approx(abs(np.log(image / text)) / 2, abs=1e-6)
    assert loss[0] == pytest.approx(float(cycle.floor(jnp.array([text]), image)[0]), abs=1e-6)


def test_the_papers_floor_and_the_logged_excess():
    assert float(cycle.floor(jnp.array([30]), 197)[0]) == pytest.approx(0.94, abs=0.005)
    result = cycle.loss(outputs([attention(0)]), BATCH)
    assert result.metrics["over_floor"] == pytest.approx(
        float(result.mean) - (np.log(P / LENGTHS) / 2).mean(), rel=1e-5
    )


def test_a_cycle_without_return_has_a_high_finite_loss():
    """Word 0 attends to patch 0, patch 0 to word 1, word 1 to patch 1, patch 1 to word 0: no token returns."""
    tv, vt = np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 2), np.float32)
    tv[:, 0, 0] = tv[:, 1, 1] = 1
    vt[:, :2, :] = [[0, 1], [1, 0]]
    vt[:, 2, 1] = 1
    mask = np.ones((1, 2), bool)
    loss, gradient = jax.value_and_grad(lambda x: cycle.pair_losses(x, vt, mask).sum())(jnp.asarray(tv))
    assert loss == pytest.approx(-np.log(cycle.EPS), rel=1e-5)
    assert jnp.isfinite(gradient).all()
