"""Our own layers, those that do not come from Linen."""

import functools
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import objectives
from bridge_jax.models import layers
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward
from tests import tiny


def drop(x, rate, seed=0, deterministic=False):
    return layers.Dropout(rate).apply({}, x, deterministic, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(64, 333), (7, 5, 611)])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, shape):
    dropped = np.asarray(drop(jnp.ones(shape), rate))
    assert set(np.unique(dropped)) == {np.float32(0), np.unique(dropped)[1]}
    assert dropped.max() == pytest.approx(1 / (1 - rate), rel=1e-4)
    spread = np.sqrt(rate * (1 - rate) / dropped.size)  # of a binomial share
    assert abs((dropped == 0).mean() - rate) < 4 * spread
    neighbours = (dropped[..., ::2][..., : shape[-1] // 2] == 0) & (
        dropped[..., 1::2] == 0
    )  # halves of one random word
    assert abs(neighbours.mean() - rate**2) < 4 * rate / np.sqrt(neighbours.size)
    assert not np.array_equal(dropped, drop(jnp.ones(shape), rate, seed=1))


def test_no_dropout_is_the_identity():
    x = jnp.arange(12.0).reshape(3, 4)
    assert drop(x, 0.0) is x
    assert drop(x, 0.5, deterministic=True) is x
    assert drop(x.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16


def test_gelu_is_exact():
    x = np.linspace(-6, 6, 101)
    expected = [v * (1 + erf(v / 2**0.5)) / 2 for v in x]
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)
    assert layers.gelu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("scan", "remat", "placement"),
    [(False, "dots", "top"), (True, "full", "top"), (True, "none", "after")],
)
def test_scan_and_remat_change_no_numbers(scan, remat, placement):
    """Losses and gradients of the whole model with dropout and unequal towers. Two of three segments are equal."""
    computed, expected = gradients(scan, remat, placement), gradients(False, "none", placement)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), computed, expected)


@functools.cache
def gradients(scan, remat, placement):
    cfg = tiny.config(
        vision=dict(depth=4, dropout=0.1),
        text=dict(depth=3, dropout=0.1),
        bridge=dict(layers=2 if placement == "after" else 3, placement=placement),
        stage=dict(losses=("itc", "itm")),
        blocks=dict(scan=scan, remat=remat),
    )
    params, batch, key = tiny.params(cfg), jax.tree.map(jnp.asarray, tiny.batch(cfg)), jax.random.key(3)

    def objective(params):
        how = forward.Forward(("unimodal", "fused", "mismatched"), lower_frozen=False)
        outputs = forward.outputs(BridgeModel(cfg), params, batch, how, forward.Keys(key, key))
        return sum(objectives.bind(name, cfg.losses[name])(outputs, batch).mean for name in ("itc", "itm"))

    return jax.jit(jax.value_and_grad(objective))(params)
