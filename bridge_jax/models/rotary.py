"""Rotary positions: rotate queries and keys by angles, which DINOv3 and ModernBERT each compute in their own way."""

import jax.numpy as jnp
from jaxtyping import Float

from bridge_jax.types import Array

Rotation = tuple[Float[Array, "L K"], Float[Array, "L K"]]  # cosines and sines of every token's angles


def rotate(x_BNLK: Float[Array, "B N L K"], rotation: Rotation) -> Float[Array, "B N L K"]:
    """Rotate each pair (k, k + K/2) of a head's features by its token's angle, in float32."""
    cos_11LK, sin_11LK = (each[None, None] for each in rotation)
    x = x_BNLK.astype(jnp.float32)
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos_11LK + jnp.concatenate([-second, first], axis=-1) * sin_11LK).astype(x_BNLK.dtype)
