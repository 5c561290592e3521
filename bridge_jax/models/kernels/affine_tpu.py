"""The backward pass of affine maps of the same states in a kernel for TPUs: each state is read from HBM once.

XLA computes the gradients of states, matrices and biases in three programs, and each reads the incoming gradients.
"""

from collections.abc import Sequence
from typing import Any

import jax

from bridge_jax.models.kernels import rows_tpu
from bridge_jax.models.kernels.rows_tpu import Device, Work, dot
from bridge_jax.types import Array


def backward(device: Device, x_BLD: Array, kernel_JDS: Array, grad_JBLS: Array) -> tuple[jax.Array, ...]:
    """Return the gradients of x [B,L,D] and, in float32, of J matrices [J,D,S] and biases [J,S]."""
    (J, D, S), (B, L, _) = kernel_JDS.shape, x_BLD.shape
    bias_J1S = jax.ShapeDtypeStruct((J, 1, S), kernel_JDS.dtype)

    def row(rows: Sequence[Any], whole: Sequence[Any], out_rows: Sequence[Any], sums: Sequence[Any]) -> None:
        (x, grad), (kernel,), (x_grad,), (kernel_sum, bias_sum) = rows, whole, out_rows, sums
        total: Any = 0.0
        for j in range(J):
            into = grad[j, 0]
            total += dot(into, kernel[j], 1, 1)
            kernel_sum[j] += dot(x[0, 0], into, 0, 0)
            bias_sum[j] += into.astype(bias_sum.dtype).sum(axis=0, keepdims=True)
        x_grad[0, 0] = total.astype(x_grad.dtype)

    work = Work("affine_backward", flops=4 * B * L * J * D * S)
    out = [jax.ShapeDtypeStruct((1, B, L, D), x_BLD.dtype)]
    sums: Any = (kernel_JDS, bias_J1S)
    x_grad, kernel_sum, bias_sum = rows_tpu.run(row, device, work, [x_BLD[None], grad_JBLS], [kernel_JDS], out, sums)
    return x_grad[0], kernel_sum, bias_sum[:, 0]


def vmem_bytes(L: int, D: int, S: int, J: int, itemsize: int) -> int:
    """Return about how much VMEM it takes: matrices and their gradients, and a row's states."""
    return J * D * S * (itemsize + 4) + 2 * L * (2 * D + J * S) * itemsize + 4 * L * D * 4
