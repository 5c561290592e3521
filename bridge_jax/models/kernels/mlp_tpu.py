"""The MLP branch of a pre-norm block in a kernel for TPUs: norm, up, activation and down of a row in VMEM.

XLA writes the normalised states and the wide hidden ones to HBM and reads them again, in the backward pass several
times. Here only the branch's input and result pass through HBM, and the backward pass computes the hidden states again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bridge_jax.models.kernels import rows_tpu
from bridge_jax.models.kernels.rows_tpu import Device, Work, dot, normed
from bridge_jax.types import Array

HIDDEN = 768  # hidden columns that are computed at once


@dataclasses.dataclass(frozen=True)
class Form:
    """Choose the kernel to compile."""

    activation: Callable[[Any], Any]
    eps: float  # of the norm
    residual: bool  # add the input to the result
    device: Device


class Weights(NamedTuple):
    """Hold the parameters of the branch, or refs of them; those of one row are float32."""

    scale: Any  # [1,D] of the norm
    shift: Any  # [1,D]
    up: Any  # [D,H]
    up_bias: Any  # [1,H]
    down: Any  # [H,D]
    down_bias: Any  # [1,D]


def weights(
    dtype: Any, scale: Array, shift: Array, up: Array, up_bias: Array, down: Array, down_bias: Array
) -> Weights:
    """Return the parameters with the shapes that the kernel reads, matrices in `dtype`."""
    up, down = up.astype(dtype), down.astype(dtype)
    return Weights(scale[None], shift[None], up, up_bias[None], down, down_bias[None])


def forward(form: Form, x_BLD: Array, weights: Weights) -> jax.Array:
    """Return `down(activation(up(norm(x))))`, [B,L,D], plus x with `residual`."""
    rows = [x_BLD[None]]

    def row(rows: Sequence[Any], whole: Sequence[Any], out_rows: Sequence[Any], _: Sequence[Any]) -> None:
        out_rows[0][0, 0] = _forward(form, rows[0][0, 0], Weights(*whole)).astype(out_rows[0].dtype)

    work = _work("mlp_forward", x_BLD, weights, 2)
    (y_1BLD,) = rows_tpu.run(row, form.device, work, rows, weights, [_like(rows[0])])
    return y_1BLD[0]


def backward(form: Form, x_BLD: Array, weights: Weights, grad_BLD: Array) -> tuple[jax.Array, Weights]:
    """Return the gradients of x and, in float32, of the weights; `grad_BLD` is that of what `forward` returns."""
    rows = [x_BLD[None], grad_BLD[None]]

    def row(rows: Sequence[Any], whole: Sequence[Any], out_rows: Sequence[Any], sums: Sequence[Any]) -> None:
        x_grad = _backward(form, rows[0][0, 0], rows[1][0, 0], Weights(*whole), Weights(*sums))
        out_rows[0][0, 0] = x_grad.astype(out_rows[0].dtype)

    work = _work("mlp_backward", x_BLD, weights, 5)
    x_grad, *sums = rows_tpu.run(row, form.device, work, rows, weights, [_like(rows[0])], weights)
    return x_grad[0], Weights(*sums)


def vmem_bytes(L: int, D: int, H: int, itemsize: int) -> int:
    """Return about how much VMEM the backward pass takes: weights and their gradients, a row and its hidden part."""
    return 2 * D * H * (itemsize + 4) + L * D * (6 * itemsize + 8 * 4) + 10 * 4 * L * min(HIDDEN, H)


def _work(name: str, x_BLD: Array, weights: Weights, products: int) -> Work:
    (B, L, D), H = x_BLD.shape, weights.up.shape[1]
    return Work(name, flops=2 * products * B * L * D * H, transcendentals=B * L * H)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _forward(form: Form, x_LD: Array, weights: Weights) -> jax.Array:
    dtype = weights.up.dtype
    y_LD = normed(form.eps, x_LD, weights.scale[...], weights.shift[...]).astype(dtype)
    total_LD = jnp.zeros(x_LD.shape, jnp.float32) + weights.down_bias[...]
    for part in _parts(weights):
        hidden = form.activation(dot(y_LD, weights.up[:, part], 1, 0) + weights.up_bias[:, part])
        total_LD += dot(hidden.astype(dtype), weights.down[part], 1, 0)
    return total_LD + x_LD if form.residual else total_LD


def _backward(form: Form, x_LD: Array, grad_LD: Array, weights: Weights, sums: Weights) -> jax.Array:
    """Add the row's gradients of the weights to `sums` and return that of x."""
    dtype = weights.up.dtype
    normed_LD, norm_grads = jax.vjp(functools.partial(normed, form.eps), x_LD, weights.scale[...], weights.shift[...])
    y_LD, into_down, y_grad = normed_LD.astype(dtype), grad_LD.astype(dtype), jnp.zeros(x_LD.shape, jnp.float32)
    for part in _parts(weights):
        hidden, hidden_grad = jax.vjp(form.activation, dot(y_LD, weights.up[:, part], 1, 0) + weights.up_bias[:, part])
        (into_LH,) = hidden_grad(dot(into_down, weights.down[part], 1, 1))
        sums.up_bias[:, part] += into_LH.sum(axis=0, keepdims=True)
        into_LH = into_LH.astype(dtype)
        y_grad += dot(into_LH, weights.up[:, part], 1, 1)
        sums.up[:, part] += dot(y_LD, into_LH, 0, 0)
        sums.down[part] += dot(hidden.astype(dtype), into_down, 0, 0)
    sums.down_bias[...] += grad_LD.astype(jnp.float32).sum(axis=0, keepdims=True)
    into_LD, scale_grad, shift_grad = norm_grads(y_grad)
    sums.scale[...] += scale_grad
    sums.shift[...] += shift_grad
    return into_LD + grad_LD if form.residual else into_LD


def _parts(weights: Weights) -> list[slice]:
    H = weights.up.shape[1]
    return [slice(first, min(first + HIDDEN, H)) for first in range(0, H, HIDDEN)]
