"""The TPU's own compiler takes the kernels, for every chip, and the planner counts their FLOPs and bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bridge_jax.config import Mesh
from bridge_jax.models import interaction, layers
from bridge_jax.models.kernels import attention
from bridge_jax.plan import chips, flops, hlo
from bridge_jax.step import sharding

ROWS, L, M, D, HEADS = 4, 24, 40, 256, 4  # rows of a chip
BFLOAT16 = jnp.dtype("bfloat16")
SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def gradients(form, mesh):
    """The function that runs both attentions forward and backward, and the shapes of its arguments on the mesh."""
    own = layers.SelfAttention(HEADS, BFLOAT16, 0.1, attention=form)
    cross = interaction.CosineAttention(HEADS, 0.1, 0.1, BFLOAT16, attention=form)

    def loss(params, image, text, mask, key):
        with sharding.known_to_kernels(mesh):
            rngs = {"dropout": key}
            text = own.apply(params["own"], text, mask, deterministic=False, rngs=rngs)
            out, weights = cross.apply(params["cross"], image, text, mask, deterministic=False, rngs=rngs)
        return out.astype(jnp.float32).sum() + (weights**2).sum()

    rows = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    B = ROWS * sharding.row_parts(mesh)
    image, text = (jax.ShapeDtypeStruct((B, size, D), BFLOAT16, sharding=rows) for size in (L, M))
    mask = jax.ShapeDtypeStruct((B, M), jnp.bool_, sharding=rows)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(
        lambda image, text: {
            "own": own.init(jax.random.key(0), text, None, deterministic=True),
            "cross": cross.init(jax.random.key(0), image, text, None, deterministic=True),
        },
        image,
        text,
    )
    placed = jax.tree.map(lambda x: x.update(sharding=sharding.replicated(mesh)), params)
    return jax.value_and_grad(loss, (0, 1, 2)), (placed, image, text, mask, key)


@pytest.mark.parametrize("chip", chips.CHIPS)
def test_the_compiler_takes_the_kernel(quickly, chip):
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=1, tensor=2), chips.slice_of(SLICES[chip])[1])
    function, arguments = gradients("auto", mesh)
    program = jax.jit(function).lower(*arguments).compile().as_text()
    assert program.count("tpu_custom_call") >= 4  # two attentions, forward and backward
    counted = hlo.read(program)
    plain, arguments = gradients("plain", mesh)
    products = flops.flops_of(jax.jit(plain), *arguments) / mesh.size
    recomputed = 2 * ROWS * (L + M) * M * D / 2  # the backward kernel repeats the logits
    assert counted.flops == pytest.approx(products + recomputed, rel=0.02)


def test_forms_follow_rows_heads_and_memory(libtpu):
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=1, tensor=2), chips.slice_of("v5e:2x2")[1])
    with sharding.known_to_kernels(mesh):
        assert attention.form_of("auto", 4, (197, 64, 768), 12, BFLOAT16) == "kernel"
        assert attention.form_of("kernel", 4, (197, 64, 768), 12, BFLOAT16) == "kernel"
        assert attention.form_of("plain", 4, (197, 64, 768), 12, BFLOAT16) == "plain"
        assert attention.form_of("auto", 3, (197, 64, 768), 12, BFLOAT16) == "plain"  # rows
        assert attention.form_of("auto", 4, (197, 64, 768), 3, BFLOAT16) == "plain"  # heads
        assert attention.form_of("auto", 4, (1370, 1370, 768), 12, BFLOAT16) == "plain"  # VMEM
