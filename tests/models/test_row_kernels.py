"""The kernels that hold parameters in VMEM against the plain form: a block's values and gradients, and where they run.

`tests/step/test_sharding.py` trains with them on meshes, and `tests/plan/test_kernels.py` has the TPU's own compiler.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import Mesh as MeshConfig
from bridge_jax.config import Vision
from bridge_jax.models import layers, pre_norm
from bridge_jax.models.kernels import affine_tpu, mlp_tpu, rows, rows_tpu
from bridge_jax.step import sharding
from configs import common

B, L, D, HIDDEN, HEADS = 4, 5, 16, 40, 2
ONE = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])


def vision(dropout):
    settings = common.vit("base", patch_px=4, image_px=8).to_dict() | dict(
        width=D, heads=HEADS, depth=1, mlp_width=HIDDEN, dropout=dropout, norm_eps=1e-3
    )
    return Vision(**settings)


def drawn(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def results(kernels, activation, layer_scale, dropout, dtype="float32"):
    """Return a block's output, and the gradients of a weighted sum of it by parameters and states."""
    block = pre_norm.PreNormBlock(vision(dropout), jnp.dtype(dtype), activation, layer_scale, kernels=kernels)
    x, factors = drawn(B, L, D), drawn(B, L, D, seed=1)
    params = block.clone(kernels="plain").init(jax.random.key(1), x, None, None, True)
    params = jax.tree.map(lambda p: p + 0.3 * drawn(*p.shape, seed=2), params)  # biases and shifts that are not zero

    def run(params, x):
        with sharding.known_to_kernels(ONE):
            return block.apply(params, x, None, None, not dropout, rngs={"dropout": jax.random.key(5)})

    loss = lambda params, x: (run(params, x).astype(jnp.float32) * factors).sum()  # noqa: E731
    return jax.jit(lambda *given: (run(*given), jax.grad(loss, (0, 1))(*given)))(params, x)


def greatest_difference(found, expected):
    """Of all arrays, each relative to the greatest number in it; the keys' bias has a gradient of rounding alone."""
    found, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected))
    assert found.keys() == expected.keys()
    parts = [
        float(jnp.abs(found[path].astype(jnp.float32) - expected[path]).max() / jnp.abs(expected[path]).max())
        for path in found
        if "['key']['bias']" not in jax.tree_util.keystr(path)
    ]
    return max(parts)


@pytest.mark.parametrize(
    ("activation", "layer_scale", "dropout"),
    [(layers.gelu, False, 0.0), (layers.gelu_tanh, False, 0.3), (layers.quick_gelu, True, 0.0)],
)
def test_a_block_in_kernels_gives_the_plain_numbers(monkeypatch, activation, layer_scale, dropout):
    monkeypatch.setattr(mlp_tpu, "HIDDEN", 16)  # two parts and a half
    found, expected = (results(form, activation, layer_scale, dropout) for form in ("interpret", "plain"))
    assert greatest_difference(found, expected) < 1e-5
    other = layers.gelu if activation is layers.quick_gelu else layers.quick_gelu
    assert greatest_difference(results("interpret", other, layer_scale, dropout), expected) > 1e-3


def test_in_bfloat16_a_block_in_kernels_is_as_near_to_float32_as_the_plain_form():
    exact = results("plain", layers.gelu, False, 0.0)
    kernel, plain = (
        greatest_difference(results(form, layers.gelu, False, 0.0, "bfloat16"), exact)
        for form in ("interpret", "plain")
    )
    assert 0 < kernel <= 1.2 * plain < 0.1


def test_two_cores_add_their_parts_of_the_gradients():
    device = rows_tpu.Device(cores=2, vmem_bytes=0, interpret=True)
    x, kernel, grad = drawn(B, L, D), drawn(3, D, 6), drawn(3, B, L, 6)
    found, sums = affine_tpu.backward(affine_tpu.Form(device), x, affine_tpu.Maps(kernel, drawn(3, 1, 6)), grad)
    expected = jnp.einsum("JBLS,JDS->BLD", grad, kernel), jnp.einsum("BLD,JBLS->JDS", x, grad), grad.sum(axis=(1, 2))
    assert greatest_difference((found, sums.kernel, sums.bias[:, 0]), expected) < 1e-5


def test_without_a_mesh_or_a_tpu_maps_are_plain():
    assert rows.device_of("interpret", B, 197, 0) is None
    with sharding.known_to_kernels(ONE):
        assert rows.device_of("auto", B, 197, 0) is None
        assert rows.device_of("plain", B, 197, 0) is None
        assert rows.device_of("interpret", B, 197, 0) == rows_tpu.Device(cores=1, vmem_bytes=0, interpret=True)
