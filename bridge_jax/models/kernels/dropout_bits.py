"""Dropout inside a kernel, with the bits of `layers.hashed_bits` in signed integers: TPUs compare no unsigned ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from bridge_jax.types import Array


def dropped(x_LM: Float[Array, "L M"], rate: float, key: tuple[Any, Any], place: Any) -> Float[Array, "L M"]:
    """Drop what `layers.Dropout` drops of x[place], x being an array [*,L,M] with its leading axes made one.

    `key` has the two halves of the dropout key, int32 as `place`.
    """
    L, M = x_LM.shape
    share = round(rate * 2**32)
    position = place * (L * M) + _count(L, M, 0) * M + _count(L, M, 1)
    bits = _mix(_mix(position ^ key[0]) + key[1])
    kept = (bits ^ _int32(1 << 31)) >= _int32(share ^ 1 << 31)  # compares as if unsigned
    return jnp.where(kept, x_LM / (1 - share / 2**32), 0.0)


def _count(L: int, M: int, axis: int) -> Array:
    return lax.broadcasted_iota(jnp.int32, (L, M), axis)


def _int32(number: int) -> np.int32:
    """Return the 32 bits of `number` as a signed integer."""
    return np.uint32(number).view(np.int32)


def _mix(x: Array) -> Array:
    def shifted(x: Array, by: int) -> Array:
        return lax.shift_right_logical(x, jnp.full_like(x, by))

    x = (x ^ shifted(x, 16)) * _int32(0x7FEB352D)
    x = (x ^ shifted(x, 15)) * _int32(0x846CA68B)
    return x ^ shifted(x, 16)
