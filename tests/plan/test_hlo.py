"""The reader of compiled programs, against programs whose cost is known beforehand."""

import jax
import jax.numpy as jnp
import pytest

from bridge_jax.plan import hlo
from bridge_jax.step import flops


def compiled(function, *shapes, **options):
    return jax.jit(function, **options).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()


def test_a_loop_counts_as_often_as_it_runs():
    def looped(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, None, length=7)[0]

    program = compiled(looped, (8, 16), (16, 16))
    expected = 7 * 2 * 8 * 16 * 16
    assert hlo.read(program.as_text()).flops == expected
    assert flops.flops_of(jax.jit(looped), jnp.zeros((8, 16)), jnp.zeros((16, 16))) == expected
    assert program.cost_analysis()["flops"] < expected  # why there is a reader


def test_gradients_and_batched_products():
    def loss(x, w):
        return jnp.einsum("BLD,BDK->BLK", jnp.tanh(x), w).sum() ** 2

    text = compiled(jax.grad(loss, argnums=(0, 1)), (3, 5, 7), (3, 7, 11)).as_text()
    product = 2 * 3 * 5 * 7 * 11
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    assert hlo.read(text).flops == flops.flops_of(gradients, jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 11)))
    assert hlo.read(text).flops in (2 * product, 3 * product)  # the compiler needs no value to differentiate a sum


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, "VALID"), (2, 1, "SAME"), (1, 3, ((2, 1), (0, 4)))])
def test_a_convolution_counts_the_pairs_that_meet(stride, dilation, padding):
    """As XLA's own analysis does: the kernel over padding, or between dilated inputs, multiplies nothing."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, padding, lhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    program = compiled(convolve, (2, 9, 7, 3), (4, 3, 3, 5))
    assert hlo.read(program.as_text()).flops == program.cost_analysis()["flops"]


def test_a_batched_product_as_a_tpu_has_it():
    """The batch of 8 x 12 is a window in which each position meets one input."""
    text = (
        "ENTRY %main (a: bf16[8,12,197,64], b: bf16[8,12,30,64]) -> bf16[8,12,197,30] {\n"
        "  %a = bf16[8,12,197,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)\n"
        "  %b = bf16[8,12,30,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)\n"
        "  ROOT %c = bf16[8,12,197,30]{3,2,1,0:T(8,128)(2,1)} convolution(%a, %b), "
        "window={size=8x12 stride=7x11 lhs_dilate=8x12}, dim_labels=01bf_01oi->01bf\n"
        "}\n"
    )
    program = hlo.read(text)
    assert program.flops == 2 * 8 * 12 * 197 * 30 * 64
    assert program.hbm_bytes == 2 * 8 * 12 * (32 * 128 + 200 * 128)  # in tiles of 8 x 128; %a lies in VMEM


def test_a_slice_that_is_fetched_early_counts_as_itself():
    text = (
        "ENTRY %main (a: f32[768,768]) -> f32[192,768] {\n"
        "  %a = f32[768,768]{1,0:T(8,128)} parameter(0)\n"
        "  %s = ((f32[768,768]{1,0:T(8,128)}), f32[192,768]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), "
        "slice={[384:576], [0:768]}\n"
        "  ROOT %d = f32[192,768]{1,0:T(8,128)S(1)} slice-done(%s)\n"
        "}\n"
    )
    assert hlo.read(text).hbm_bytes == 4 * 192 * 768


def test_the_groups_of_a_named_mesh_are_read_whole():
    text = (
        "HloModule m\n\n"
        "ENTRY %main (a: f32[8,16]) -> f32[32,16] {\n"
        "  %a = f32[8,16]{1,0} parameter(0)\n"
        "  ROOT %g = f32[32,16]{1,0} all-gather(%a), channel_id=1, replica_groups=mesh['x'=1,'y'=4,'z'=4], "
        "device_ids=([4,4]T(1,0)) {'y'}, dimensions={0}, use_global_device_ids=true\n"
        "}\n"
    )
    (found,) = hlo.read(text).collectives
    assert hlo.groups(found.groups, 16).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 1], [2, 3]]),
        ("mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'a','c'}", [[0, 2], [1, 3]]),
        ("{}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_in_every_spelling(text, expected):
    assert hlo.groups(text, 4).tolist() == expected
