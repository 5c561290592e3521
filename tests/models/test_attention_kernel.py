"""The attention kernel against the plain form: values, gradients, dropout's bits; and the TPU's compiler.

`tests/step/test_sharding.py` trains with it on meshes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.config import Mesh as MeshConfig
from bridge_jax.models import interaction, layers
from bridge_jax.models.kernels import attention, attention_tpu
from bridge_jax.step import sharding

B, L, M, D, HEADS, RATE = 8, 13, 7, 32, 4, 0.3
ONE = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])


def module(kind, form, rate=0.0, dtype="float32", heads=HEADS):
    if kind == "cosine":
        return interaction.CosineAttention(heads, 0.1, rate, jnp.dtype(dtype), kernels=form)
    return layers.SelfAttention(heads, jnp.dtype(dtype), rate, kernels=form)


def inputs(kind, masked):
    draw = np.random.default_rng(0)
    lengths = (L, M) if kind == "cosine" else (L,)
    states = [jnp.float32(draw.normal(size=(B, length, D))) for length in lengths]
    mask = draw.random((B, lengths[-1])) < 0.7
    mask[:, 0] = True
    return states, jnp.asarray(mask) if masked else None


def results(kind, form, masked, rate=0.0, dtype="float32"):
    """What an attention returns, and the gradients of a weighted sum of it by parameters and states."""
    states, mask = inputs(kind, masked)
    draw = np.random.default_rng(2)
    params = module(kind, "plain").init(jax.random.key(1), *states, mask, deterministic=True)
    params = jax.tree.map(lambda x: x + jnp.float32(0.3 * draw.normal(size=x.shape)), params)  # a bias that is not zero
    factors = [jnp.float32(draw.normal(size=(B, L, size))) for size in (D, M)]

    def run(params, states):
        attend = module(kind, form, rate, dtype)
        with sharding.known_to_kernels(ONE):
            found = attend.apply(params, *states, mask, deterministic=not rate, rngs={"dropout": jax.random.key(5)})
        return jax.tree.leaves(found)

    def loss(params, states):
        return sum((x.astype(jnp.float32) * y).sum() for x, y in zip(run(params, states), factors, strict=False))

    return jax.jit(lambda *given: (run(*given), jax.grad(loss, (0, 1))(*given)))(params, states)


def greatest_difference(found, expected):
    """Of all arrays, relative to the greatest number in them: the keys' bias has a gradient of rounding alone."""
    leaves = list(zip(*map(jax.tree.leaves, (found, expected)), strict=True))
    scale = max(float(jnp.abs(y).max()) for _, y in leaves)
    return max(float(jnp.abs(x.astype(jnp.float32) - y).max()) for x, y in leaves) / scale


@pytest.mark.parametrize("rate", [0.0, RATE])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["self", "cosine"])
def test_the_kernel_gives_the_plain_numbers(kind, masked, rate):
    found, expected = (results(kind, form, masked, rate) for form in ("interpret", "plain"))
    assert greatest_difference(found, expected) < 1e-5
    assert greatest_difference(results(kind, "interpret", not masked, rate), expected) > 1e-3  # the mask counts


@pytest.mark.parametrize("kind", ["self", "cosine"])
def test_in_bfloat16_the_kernel_is_as_near_to_float32_as_the_plain_form(kind):
    exact = results(kind, "plain", True, RATE)
    kernel, plain = (
        greatest_difference(results(kind, form, True, RATE, "bfloat16"), exact) for form in ("interpret", "plain")
    )
    assert 0 < kernel <= 1.1 * plain < 0.05


def test_the_kernel_takes_rows_together_and_apart():
    """Of 8 rows of 13 tokens a cell takes all, of 300 tokens one; two cores share what can be halved."""
    operands = [
        attention_tpu.Operands(None, None, (jax.ShapeDtypeStruct((3, rows, tokens, D), jnp.float32),), None, None)
        for rows, tokens in ((8, 13), (8, 300), (9, 300))
    ]
    assert [tuple(attention_tpu._grid(each)) for each in operands] == [(1, 1, 8), (2, 4, 1), (1, 9, 1)]


def test_without_a_mesh_or_a_tpu_attention_is_plain():
    assert attention.form_of("interpret", B, (L, M, D), HEADS, "float32") == "plain"
    with sharding.known_to_kernels(ONE):
        assert attention.form_of("auto", B, (L, M, D), HEADS, "float32") == "plain"
        assert attention.form_of("plain", B, (L, M, D), HEADS, "float32") == "plain"
        assert attention.form_of("interpret", B, (L, M, D), HEADS, "float32") == "interpret"
        with pytest.raises(ConfigError, match="'kernel', and the devices are of the kind 'cpu'; expected TPUs: set it"):
            attention.form_of("kernel", B, (L, M, D), HEADS, "float32")
