"""Attention by a kernel: the numbers of the plain form in `layers` and `interaction`, with less traffic to HBM.

`config.blocks.kernels` chooses the form (`form_of`). The compiler does not partition a kernel, so `attend` runs it
under `shard_map`: each device has its own rows of the batch and, over the mesh axis `tensor`, its own heads. The mesh
is that of the context in which the program is traced (`step.sharding.known_to_kernels`). Without one, as where
parameters are initialised or a model is exported, attention is plain.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Bool, Float

from bridge_jax.config import ConfigError
from bridge_jax.models.kernels import attention_tpu
from bridge_jax.models.kernels.attention_tpu import Form, Operands
from bridge_jax.types import Array

ROWS, HEADS = ("data", "fsdp"), "tensor"  # mesh axes
VMEM_BYTES = 48 * 2**20  # a row's states and logits may take so much


def form_of(attention: str, rows: Any, sizes: tuple[int, int, int], heads: int, dtype: Any) -> str:
    """Return the form that attention takes: "plain", "kernel", or "interpret" for the kernel as plain operations.

    `rows` of the batch are a number, or without a mesh the open one of an export. `sizes` are L queries, M keys and the
    width. "auto" and "kernel" mean the kernel where the devices are TPUs, a row fits their VMEM, and the mesh divides
    rows and heads. Raises ConfigError if "kernel" meets other devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if attention == "plain" or mesh.empty:
        return "plain"
    platform = mesh.abstract_device.platform
    if attention == "kernel" and platform != "tpu":
        raise ConfigError(
            f"config.blocks.kernels is 'kernel', and the devices are of the kind {platform!r}; expected TPUs: set it "
            "to 'auto', or to 'interpret' for a slow test of the kernel"
        )
    if rows % math.prod(mesh.shape[axis] for axis in ROWS) or heads % mesh.shape[HEADS]:
        return "plain"
    if attention == "interpret":
        return "interpret"
    fits = attention_tpu.vmem_bytes(*sizes, jnp.dtype(dtype).itemsize) <= VMEM_BYTES
    return "kernel" if platform == "tpu" and fits else "plain"


@dataclasses.dataclass(frozen=True)
class _Call:
    """Hold the part of a call that is known before the program runs."""

    form: Form
    mesh: AbstractMesh
    heads: int  # of all devices


def attend(
    form: str,
    heads: int,
    states: tuple[Float[Array, "_ B _ D"], ...],
    scale: Float[Array, ""],
    bias: Float[Array, "L M"] | None = None,
    mask: Bool[Array, "B M"] | None = None,
    rate: float = 0.0,
    key: Array | None = None,
) -> tuple[Float[Array, "B L D"], Float[Array, "B L M"] | None]:
    """Average the values by the softmax of `scale` q k; `form` is "kernel" or "interpret".

    Returns the attended values, heads joined, and with a bias the heads' mean weights before dropout, in float32.
    `states` are queries, keys and values, (q, k, v) [3,B,L,D] of one side, or q [1,B,L,D] and (k, v) [2,B,M,D] of two.
    With a bias, queries and keys are L2-normalised in each head first, `bias` is added to the logits, and gradients
    reach `scale` and `bias`. Keys where `mask` is False get no weight. `key` draws a dropout of `rate`, with the bits
    of `layers.Dropout` on weights [B,N,L,M].
    """
    mesh = jax.sharding.get_abstract_mesh()
    call = _Call(
        Form(heads // mesh.shape[HEADS], cosine=bias is not None, rate=rate, interpret=form == "interpret"),
        mesh,
        heads,
    )
    bits = jnp.zeros(2, jnp.uint32) if key is None else jax.random.key_data(key)
    mask_B1M = None if mask is None else mask.astype(jnp.float32)[:, None]
    found: Any = _attend(call, lax.bitcast_convert_type(bits, jnp.int32), scale.reshape(1), states, bias, mask_B1M)
    return found[0], found[1] if call.form.cosine else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: _Call, bits: Array, scale: Array, states: tuple[Array, ...], bias: Any, mask: Any) -> list[jax.Array]:
    def own(*given: Any) -> list[jax.Array]:
        out, *mean = attention_tpu.forward(call.form, _operands(call, *given))
        if call.form.heads < call.heads:
            mean = [lax.psum(x, HEADS) * (call.form.heads / call.heads) for x in mean]
        return [out, *mean]

    given = (bits, scale, states, bias, mask)
    return _on_devices(call, own, given, _specs(given), _result_specs(call))


def _forward(call: _Call, *given: Any) -> tuple[list[jax.Array], tuple[Any, ...]]:
    return _attend(call, *given), given


def _backward(call: _Call, given: tuple[Any, ...], grads: list[Array]) -> tuple[Any, ...]:
    bits, scale, states, _, mask = given

    def own(given: tuple[Any, ...], grads: list[Array]) -> tuple[Any, ...]:
        d_out, *d_mean = grads
        d_mean = [x * (call.form.heads / call.heads) for x in d_mean]  # each device's part of the mean
        found = attention_tpu.backward(call.form, _operands(call, *given), [d_out, *d_mean])
        d_states, sums = found[: len(states)], found[len(states) :]
        return tuple(d_states), [lax.psum(x, (*ROWS, HEADS)) for x in sums]

    specs = _specs(given)
    found = _on_devices(
        call, own, (given, grads), (specs, _result_specs(call)), (specs[2], [PartitionSpec()] * 2 * call.form.cosine)
    )
    d_states, sums = found
    d_bias, d_scale = sums if sums else (None, jnp.zeros_like(scale))
    nothing = np.zeros(bits.shape, jax.dtypes.float0)
    return nothing, d_scale, d_states, d_bias, None if mask is None else jnp.zeros_like(mask)


_attend.defvjp(_forward, _backward)


def _operands(call: _Call, bits: Array, scale: Array, states: Any, bias: Any, mask: Any) -> Operands:
    """Return a device's operands: its own rows and heads, and where they stand in the whole arrays."""
    first_row = lax.axis_index(ROWS).astype(jnp.int32) * states[0].shape[1]
    first_head = lax.axis_index(HEADS).astype(jnp.int32) * call.form.heads
    numbers = jnp.concatenate([bits, jnp.stack([first_row, first_head, jnp.int32(call.heads)])])
    return Operands(numbers, scale, tuple(states), bias, mask)


def _on_devices(call: _Call, own: Any, given: Any, in_specs: Any, out_specs: Any) -> Any:
    return jax.shard_map(own, mesh=call.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*given)


def _specs(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return where `_attend`'s arrays lie: rows and heads of the states on their devices, what they share on all."""
    _, _, states, bias, mask = given
    shared, rows = PartitionSpec(), PartitionSpec(ROWS)
    spread = PartitionSpec(None, ROWS, None, HEADS)
    return shared, shared, (spread,) * len(states), None if bias is None else shared, None if mask is None else rows


def _result_specs(call: _Call) -> list[PartitionSpec]:
    return [PartitionSpec(ROWS, None, HEADS), *[PartitionSpec(ROWS)] * call.form.cosine]
