"""Pallas kernels for TPUs that keep whole parameters in VMEM while the rows of a batch pass by.

XLA computes the gradients of an affine map in separate programs, each of which reads the states again from HBM. Here a
cell of the grid loads the states of one row, [L,D], and does all that is done with them. The parameters are loaded
once, and the float32 sums of their gradients are stored once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bridge_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Device:
    """Hold what a kernel has to know of the device that runs it."""

    cores: int  # each takes an equal part of the rows
    vmem_bytes: int  # that the compiler may use, of a core
    interpret: bool  # run as plain operations, on any device


@dataclasses.dataclass(frozen=True)
class Work:
    """Name a kernel, and tell the compiler its cost; FLOPs and transcendentals are those of the whole call."""

    name: str
    flops: int
    transcendentals: int = 0


def run(
    body: Callable[[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[Any]], None],
    device: Device,
    work: Work,
    rows: Sequence[Array],
    whole: Sequence[Array],
    out_rows: Sequence[jax.ShapeDtypeStruct],
    sums: Sequence[Array] = (),
) -> list[jax.Array]:
    """Run `body(rows, whole, out_rows, sums)` for every row of the batch, with refs, and return `out_rows` and sums.

    `rows` and `out_rows` are [J,B,L,D], of which a ref has [J,1,L,D]; `whole` and `sums` are there whole. A sum is
    float32, has the shape of the array that is given for it, and starts at zero.
    """
    B = rows[0].shape[1]
    parts = device.cores if B % device.cores == 0 else 1
    cells = B // parts

    def row_of(x: Any) -> pl.BlockSpec:
        J, _, *shape = x.shape
        return pl.BlockSpec((J, 1, *shape), lambda part, cell: (0, part * cells + cell, *[0] * len(shape)))

    once = pl.Buffered(buffer_count=1)
    held = [pl.BlockSpec(x.shape, lambda part, cell, n=x.ndim: (0,) * n, pipeline_mode=once) for x in whole]
    summed = [
        pl.BlockSpec((1, *x.shape), lambda part, cell, n=x.ndim: (part, *[0] * n), pipeline_mode=once) for x in sums
    ]
    partial = [jax.ShapeDtypeStruct((parts, *x.shape), jnp.float32) for x in sums]

    def cell(*refs: Any) -> None:
        left = list(refs)
        taken = [[left.pop(0) for _ in group] for group in (rows, whole, out_rows, sums)]
        taken[3] = [ref.at[0] for ref in taken[3]]

        @pl.when(pl.program_id(1) == 0)
        def _clear() -> None:
            for ref in taken[3]:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        body(*taken)

    arrays = [*rows, *whole, *out_rows, *partial]
    found = pl.pallas_call(
        cell,
        out_shape=[*out_rows, *partial],
        grid=(parts, cells),
        in_specs=[*map(row_of, rows), *held],
        out_specs=[*map(row_of, out_rows), *summed],
        cost_estimate=pl.CostEstimate(
            flops=work.flops,
            transcendentals=work.transcendentals,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=device.vmem_bytes
        ),
        interpret=device.interpret,
        name=work.name,
    )(*rows, *whole)
    return [*found[: len(out_rows)], *(x.sum(axis=0) for x in found[len(out_rows) :])]


def normed(eps: float, x_LD: Array, scale: Array, shift: Array) -> jax.Array:
    """Apply LayerNorm in float32, as `layers.layer_norm` does."""
    x = x_LD.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return centred * inverse * scale + shift


def dot(a: Array, b: Array, a_axis: int, b_axis: int) -> jax.Array:
    """Contract an axis of each of two matrices; the sums are float32."""
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
