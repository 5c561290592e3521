"""The bytes that programs move, compiled for a TPU, against bytes known by hand and XLA's own sum.

XLA counts the body of a loop once. Its own sum is therefore compared with each instruction counted once.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from bridge_jax.plan import chips, hlo
from bridge_jax.step import flops

LAYERS, SIDE = 24, 2048
MATRIX = 2 * SIDE * SIDE  # bytes of a layer's weights; all of them are more than a chip's VMEM
STATES = 2 * 8 * SIDE
ROWS, TILE = 512, 128
KERNEL_FLOPS, KERNEL_BYTES = 2 * ROWS * SIDE * SIDE, MATRIX + 2 * 2 * ROWS * SIDE


def doubled_and_added(x, y):
    return 2 * x + y


def cut(stacked, start):
    return 2 * jax.lax.dynamic_slice(stacked, (start, 0, 0), (2, SIDE, SIDE)).reshape(2 * SIDE, SIDE)


def updated(stacked, row, i):
    return jax.lax.dynamic_update_slice(stacked, 2 * row[None], (i, 0, 0))


def read_in_a_loop(x, stacked):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stacked)[0]


def two_stacks_in_a_loop(stacked):
    return jax.lax.scan(lambda _, w: (None, (w * 2, w + 1)), None, stacked)[1]


def kernel(x, w):
    def product(x_ref, w_ref, out_ref):
        out_ref[...] = jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32).astype(jnp.bfloat16)

    rows = pl.BlockSpec((TILE, SIDE), lambda i: (i, 0))
    return pl.pallas_call(
        product,
        grid=(ROWS // TILE,),
        in_specs=[rows, pl.BlockSpec((SIDE, SIDE), lambda i: (0, 0))],
        out_specs=rows,
        out_shape=jax.ShapeDtypeStruct((ROWS, SIDE), jnp.bfloat16),
        cost_estimate=pl.CostEstimate(flops=KERNEL_FLOPS, transcendentals=0, bytes_accessed=KERNEL_BYTES),
    )(x, w)


STACKED, NUMBER = (LAYERS, SIDE, SIDE), ()
CASES = {  # function, shapes of its arguments, bytes known by hand
    "several parameters": (doubled_and_added, (STACKED, STACKED), 3 * LAYERS * MATRIX),
    "a slice behind a bitcast": (cut, (STACKED, NUMBER), 2 * 2 * MATRIX),
    "an update in place": (updated, (STACKED, (SIDE, SIDE), NUMBER), 2 * MATRIX),
    "a loop over stacked arrays": (read_in_a_loop, ((8, SIDE), STACKED), LAYERS * (MATRIX + 4 * STATES)),
    "two updates in place in one fusion": (two_stacks_in_a_loop, (STACKED,), 3 * LAYERS * MATRIX),
    "a kernel": (kernel, ((ROWS, SIDE), (SIDE, SIDE)), KERNEL_BYTES),
}


@pytest.fixture(scope="module")
def device(quickly):
    return SingleDeviceSharding(chips.slice_of("v5e:2x2")[1][0])


def compiled(function, shapes, device):
    types = [jnp.bfloat16 if shape else jnp.int32 for shape in shapes]
    given = [jax.ShapeDtypeStruct(*one, sharding=device) for one in zip(shapes, types, strict=True)]
    return jax.jit(function, donate_argnums=(0,) if function is updated else ()).lower(*given).compile()


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_known_by_hand(name, device, bytes_once):
    function, shapes, expected = CASES[name]
    program = compiled(function, shapes, device)
    text = program.as_text()
    assert hlo.read(text).hbm_bytes == pytest.approx(expected, rel=0.003)
    assert bytes_once(text) == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.01)
    if function is kernel:
        assert hlo.read(text).flops == KERNEL_FLOPS


FUSED = """
%sliced (p: bf16[24,256,128], i: s32[]) -> bf16[256,128] {
  %p = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %s = bf16[1,256,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p, %i, %z, %z), dynamic_slice_sizes={1,256,128}
  ROOT %b = bf16[256,128]{1,0:T(8,128)(2,1)} bitcast(%s)
}

%renamed (p.1: bf16[24,32768]) -> bf16[24,256,128] {
  %p.1 = bf16[24,32768]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %b.1 = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} bitcast(%p.1)
}

%outer (p.2: s32[], p.3: bf16[24,32768], p.4: bf16[24,256,128]) -> (bf16[24,256,128], bf16[256,30]) {
  %p.4 = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} parameter(2)
  %p.3 = bf16[24,32768]{1,0:T(8,128)(2,1)} parameter(1)
  %p.2 = s32[]{:T(128)} parameter(0)
  %z = s32[]{:T(128)} constant(0)
  %r = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} fusion(%p.3), kind=kLoop, calls=%renamed
  %f = bf16[256,128]{1,0:T(8,128)(2,1)} fusion(%r, %p.2), kind=kLoop, calls=%sliced
  %n = bf16[256,30]{1,0:T(8,128)(2,1)} slice(%f), slice={[0:256], [0:30]}
  %u = bf16[1,256,128]{2,1,0:T(8,128)(2,1)} bitcast(%f)
  %d = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%p.4, %u, %p.2, %z, %z)
  ROOT %t = (bf16[24,256,128]{2,1,0:T(8,128)(2,1)}, bf16[256,30]{1,0:T(8,128)(2,1)}) tuple(%d, %n)
}

ENTRY %main (i: s32[], a: bf16[24,32768], k: bf16[24,256,128]) -> (bf16[24,256,128], bf16[256,30]) {
  %i = s32[]{:T(128)S(6)} parameter(0)
  %a = bf16[24,32768]{1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[24,256,128]{2,1,0:T(8,128)(2,1)} parameter(2)
  ROOT %o = (bf16[24,256,128]{2,1,0:T(8,128)(2,1)}, bf16[256,30]{1,0:T(8,128)(2,1)}) fusion(%i, %a, %k), calls=%outer
}
"""


def test_a_slice_and_an_update_are_found_through_fusions_bitcasts_and_a_tuple():
    """One layer is read, and written in place; its first 30 columns lie in tiles of 128."""
    assert hlo.read(FUSED).hbm_bytes == 3 * 2 * 256 * 128


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%a, %i), dynamic_slice_sizes={8,128}", 1),  # into VMEM
        ("bf16[64,128]{1,0:T(8,128)(2,1)} dynamic-update-slice(%a, %v, %i)", 1),  # from VMEM
        ("(bf16[64,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)}, u32[]) collective-permute-start(%a)", 16),
        ('bf16[64,128]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ("bf16[64,128]{1,0:T(8,128)(2,1)} iota(), iota_dimension=0", 8),
    ],
)
def test_bytes_of_one_instruction(instruction, expected):
    """In blocks of 8 x 128."""
    text = (
        "ENTRY %main (a: bf16[64,128], v: bf16[8,128], i: s32[]) -> bf16[64,128] {\n"
        "  %a = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)\n"
        "  %v = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)\n"
        "  %i = s32[]{:T(128)S(6)} parameter(2)\n"
        f"  ROOT %r = {instruction}\n"
        "}\n"
    )
    assert hlo.read(text).hbm_bytes == expected * 2 * 8 * 128


def test_a_kernel_counts_once_for_each_cell_of_its_grid():
    """On two devices each runs it over half of the rows."""
    x, w, twice = (jax.ShapeDtypeStruct((n, SIDE), jnp.bfloat16) for n in (ROWS, SIDE, 2 * ROWS))
    assert flops.flops_of(jax.jit(kernel), x, w) == KERNEL_FLOPS
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
    halves = jax.shard_map(kernel, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=False)
    assert flops.flops_of(jax.jit(halves), twice, w) == 2 * KERNEL_FLOPS
