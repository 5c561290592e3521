"""The TPU's own compiler takes the kernels, for every chip, and the planner counts their FLOPs and bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bridge_jax.config import Mesh, Vision
from bridge_jax.models import interaction, layers, pre_norm
from bridge_jax.models.kernels import attention, rows
from bridge_jax.plan import chips, hlo
from bridge_jax.step import flops, sharding
from configs import common

ROWS, L, M, D, HEADS = 4, 24, 40, 256, 4  # rows of a chip
LONG = 144  # tokens of a picture
BFLOAT16 = jnp.dtype("bfloat16")
SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def gradients(form, mesh):
    """The function that runs both attentions forward and backward, and the shapes of its arguments on the mesh."""
    own = layers.SelfAttention(HEADS, BFLOAT16, 0.1, kernels=form)
    cross = interaction.CosineAttention(HEADS, 0.1, 0.1, BFLOAT16, kernels=form)

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


def block_gradients(kernels, mesh):
    """The function that runs a block of an image tower forward and backward, and the shapes of its arguments."""
    settings = common.vit("base", patch_px=16, image_px=192).to_dict() | dict(width=D, heads=HEADS, mlp_width=2 * D)
    block = pre_norm.PreNormBlock(Vision(**settings), BFLOAT16, kernels=kernels)

    def loss(params, x):
        with sharding.known_to_kernels(mesh):
            return block.apply(params, x, None, None, False).astype(jnp.float32).sum()

    spread = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    x = jax.ShapeDtypeStruct((2 * sharding.row_parts(mesh), LONG, D), BFLOAT16, sharding=spread)
    params = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, None, None, True), x)
    placed = jax.tree.map(lambda p: p.update(sharding=sharding.replicated(mesh)), params)
    return jax.value_and_grad(loss, (0, 1)), (placed, x)


@pytest.mark.parametrize("chip", ["v4", "v5p", "v6e"])  # to a kernel, a v5e is a v6e
def test_the_compiler_takes_a_block_in_kernels(quickly, chip):
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1), chips.slice_of(SLICES[chip])[1])
    function, arguments = block_gradients("auto", mesh)
    program = jax.jit(function).lower(*arguments).compile().as_text()
    kinds = ["attention"] if chip == "v4" else ["attention", "mlp", "affine"]  # a v4 has too little VMEM for parameters
    assert all(f"{kind}_{way}" in program for kind in kinds for way in ("forward", "backward"))
    found = program.count('custom_call_target="tpu_custom_call"')
    assert found == (2 if chip == "v4" else 7)  # the gradients of the output map are the seventh
    plain, arguments = block_gradients("plain", mesh)
    products = flops.flops_of(jax.jit(plain), *arguments) / mesh.size
    logits, hidden = 2 * 2 * LONG * LONG * D, 2 * 2 * LONG * D * 2 * D  # which the backward kernels compute again
    assert hlo.read(program).flops == pytest.approx(products + logits + (hidden if chip != "v4" else 0), rel=0.02)


def test_row_kernels_follow_tokens_rows_memory_and_mesh(libtpu):
    devices = chips.slice_of("v5e:2x2")[1]
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1), devices)
    with sharding.known_to_kernels(mesh):
        assert rows.device_of("auto", 4, 197, 2**20) == rows.device_of("kernel", 4, 197, 2**20) is not None
        assert rows.device_of("plain", 4, 197, 2**20) is None
        assert rows.device_of("auto", 4, 127, 2**20) is None  # tokens
        assert rows.device_of("auto", 3, 197, 2**20) is None  # rows
        assert rows.device_of("auto", 4, 197, 2**27) is None  # VMEM
    with sharding.known_to_kernels(sharding.make_mesh(Mesh(data=2, fsdp=2, tensor=1), devices)):
        assert rows.device_of("auto", 4, 197, 2**20) is None  # parameters in parts
