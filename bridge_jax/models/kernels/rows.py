"""Affine maps and the MLP branch by kernels: the numbers of `layers` and `pre_norm`, with less traffic to HBM.

`config.blocks.kernels` chooses (`device_of`). The compiler does not partition a kernel, so each runs under `shard_map`
on a device's own rows. The gradients of matrices are summed over the devices in the type of the products, the others
in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Float

from bridge_jax.models.kernels import affine_tpu, mlp_tpu
from bridge_jax.models.kernels.affine_tpu import Maps
from bridge_jax.models.kernels.attention import ROWS
from bridge_jax.models.kernels.mlp_tpu import Weights
from bridge_jax.models.kernels.rows_tpu import Device
from bridge_jax.types import Array

SHORTEST = 128  # a row of fewer tokens fills only a part of the product unit, while XLA joins rows
VMEM_MIB = {"TPU v5 lite": 128, "TPU v5": 64, "TPU v6 lite": 128}  # of a core, by the device's kind
_ROWS, _WHOLE, _MAPPED = PartitionSpec(ROWS), PartitionSpec(), PartitionSpec(None, ROWS)


def device_of(kernels: str, rows: Any, tokens: int, vmem_bytes: int) -> Device | None:
    """Return what a kernel has to know of its device, or None where the operation is plain.

    `rows` of the batch are a number, or without a mesh the open one of an export. The kernels run on TPUs, where rows
    have many tokens, the mesh divides the rows, every device holds whole parameters and `vmem_bytes` fit its VMEM.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if kernels == "plain" or mesh.empty or math.prod(mesh.shape.values()) != mesh.shape["data"]:
        return None
    if rows % mesh.shape["data"]:
        return None
    if kernels == "interpret":
        return Device(cores=1, vmem_bytes=0, interpret=True)
    device = mesh.abstract_device
    limit = VMEM_MIB.get(device.device_kind, 0) * 2**20 * 7 // 8
    if device.platform != "tpu" or tokens < SHORTEST or vmem_bytes > limit:
        return None
    return Device(device.num_cores, limit, interpret=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(form: affine_tpu.Form, x_BLD: Float[Array, "B L D"], maps: Maps) -> Float[Array, "J B L S"]:
    """Apply J affine maps to the same states; without a norm before them, only the backward pass is a kernel."""
    if form.eps is not None:
        return _on_devices(functools.partial(affine_tpu.forward, form), (x_BLD, maps), (_ROWS, _WHOLE), _MAPPED)
    dtype = maps.kernel.dtype
    if maps.kernel.shape[0] == 1:  # as J, L and D of one product, the compiler transposes the states twice
        return (x_BLD @ maps.kernel[0] + maps.bias.astype(dtype))[None]
    return jnp.einsum("BLD,JDS->JBLS", x_BLD, maps.kernel) + maps.bias[:, None].astype(dtype)


def _affine_forward(form: affine_tpu.Form, x_BLD: Array, maps: Maps) -> tuple[jax.Array, tuple[Array, Maps]]:
    return affine(form, x_BLD, maps), (x_BLD, maps)


def _affine_backward(form: affine_tpu.Form, kept: tuple[Array, Maps], grad_JBLS: Array) -> tuple[Any, ...]:
    def own(x_BLD: Array, maps: Maps, grad_JBLS: Array) -> tuple[Any, ...]:
        x_grad, sums = affine_tpu.backward(form, x_BLD, maps, grad_JBLS)
        return x_grad, jax.tree.map(_total, sums, maps)

    return _on_devices(own, (*kept, grad_JBLS), (_ROWS, _WHOLE, _MAPPED), (_ROWS, _WHOLE))


affine.defvjp(_affine_forward, _affine_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mlp(form: mlp_tpu.Form, x_BLD: Float[Array, "B L D"], weights: Weights) -> Float[Array, "B L D"]:
    """Return `down(activation(up(norm(x))))`, plus x with `form.residual`; all but the products is float32."""
    return _on_devices(functools.partial(mlp_tpu.forward, form), (x_BLD, weights), (_ROWS, _WHOLE), _ROWS)


def _mlp_forward(form: mlp_tpu.Form, x_BLD: Array, weights: Weights) -> tuple[jax.Array, tuple[Array, Weights]]:
    return mlp(form, x_BLD, weights), (x_BLD, weights)


def _mlp_backward(form: mlp_tpu.Form, kept: tuple[Array, Weights], grad_BLD: Array) -> tuple[Any, ...]:
    def own(x_BLD: Array, weights: Weights, grad_BLD: Array) -> tuple[Any, ...]:
        x_grad, sums = mlp_tpu.backward(form, x_BLD, weights, grad_BLD)
        return x_grad, jax.tree.map(_total, sums, weights)

    return _on_devices(own, (*kept, grad_BLD), (_ROWS, _WHOLE, _ROWS), (_ROWS, _WHOLE))


mlp.defvjp(_mlp_forward, _mlp_backward)


def _total(gradient: Array, parameter: Array) -> jax.Array:
    """Sum a gradient over the devices, in the type of its parameter here: that of the products for a matrix."""
    return lax.psum(gradient.astype(parameter.dtype), ROWS)


def _on_devices(own: Any, given: Any, in_specs: Any, out_specs: Any) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    return jax.shard_map(own, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*given)
