"""Affine maps of the same states in kernels for TPUs, with a norm before them or without.

XLA normalises the states in three passes over HBM. In the backward pass it computes the gradients of states, matrices
and biases in three programs, and each reads the incoming gradients. Here each state is read once.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bridge_jax.models.kernels import rows_tpu
from bridge_jax.models.kernels.rows_tpu import Device, Work, dot, normed
from bridge_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Form:
    """Choose the kernel to compile."""

    device: Device
    eps: float | None = None  # of the norm; None: there is none


class Maps(NamedTuple):
    """Hold the parameters, or refs of them; all but the matrices are float32."""

    kernel: Any  # [J,D,S]
    bias: Any  # [J,1,S]
    scale: Any = None  # [1,D] of the norm
    shift: Any = None  # [1,D]


def forward(form: Form, x_BLD: Array, maps: Maps) -> jax.Array:
    """Return the J maps of the states, [J,B,L,S], in the type of the matrices."""
    (J, _, S), (B, L, _), dtype = maps.kernel.shape, x_BLD.shape, maps.kernel.dtype

    def row(rows: Sequence[Any], whole: Sequence[Any], out_rows: Sequence[Any], _: Sequence[Any]) -> None:
        (x,), maps, (out,) = rows, Maps(*whole), out_rows
        y = _normed(form, x[0, 0], maps.scale, maps.shift).astype(dtype)
        for j in range(J):
            out[j, 0] = (dot(y, maps.kernel[j], 1, 0) + maps.bias[j]).astype(dtype)

    out = [jax.ShapeDtypeStruct((J, B, L, S), dtype)]
    return rows_tpu.run(row, form.device, _work("affine_forward", x_BLD, maps, 1), [x_BLD[None]], _given(maps), out)[0]


def backward(form: Form, x_BLD: Array, maps: Maps, grad_JBLS: Array) -> tuple[jax.Array, Maps]:
    """Return the gradients of x and, in float32, of the parameters; `grad_JBLS` is that of what the maps return."""
    J, dtype = maps.kernel.shape[0], maps.kernel.dtype

    def row(rows: Sequence[Any], whole: Sequence[Any], out_rows: Sequence[Any], sums: Sequence[Any]) -> None:
        (x, grad), maps, (x_grad,), sums = rows, Maps(*whole), out_rows, Maps(*sums)
        parameters = [] if form.eps is None else [maps.scale[...], maps.shift[...]]
        y, norm_grads = jax.vjp(lambda *given: _normed(form, *given), x[0, 0], *parameters)
        y, total = y.astype(dtype), jnp.zeros(y.shape, jnp.float32)
        for j in range(J):
            into = grad[j, 0].astype(dtype)
            total += dot(into, maps.kernel[j], 1, 1)
            sums.kernel[j] += dot(y, into, 0, 0)
            sums.bias[j] += into.astype(jnp.float32).sum(axis=0, keepdims=True)
        into_x, *into_norm = norm_grads(total)
        x_grad[0, 0] = into_x.astype(x_grad.dtype)
        for ref, value in zip((sums.scale, sums.shift), into_norm, strict=False):
            ref[...] += value

    work, given = _work("affine_backward", x_BLD, maps, 2), _given(maps)
    out = [jax.ShapeDtypeStruct((1, *x_BLD.shape), x_BLD.dtype)]
    x_grad, *sums = rows_tpu.run(row, form.device, work, [x_BLD[None], grad_JBLS], given, out, given)
    return x_grad[0], Maps(*sums)


def vmem_bytes(L: int, D: int, S: int, J: int, itemsize: int) -> int:
    """Return about how much VMEM it takes: matrices and their gradients, and a row's states."""
    return J * D * S * (itemsize + 4) + 2 * L * (2 * D + J * S) * itemsize + 10 * L * D * 4


def _given(maps: Maps) -> list[Array]:
    return [x for x in maps if x is not None]


def _work(name: str, x_BLD: Array, maps: Maps, products: int) -> Work:
    return Work(name, flops=2 * products * x_BLD.shape[0] * x_BLD.shape[1] * maps.kernel.size)


def _normed(form: Form, x_LD: Array, scale: Any = None, shift: Any = None) -> jax.Array:
    return x_LD.astype(jnp.float32) if form.eps is None else normed(form.eps, x_LD, scale[...], shift[...])
