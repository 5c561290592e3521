"""Rotary positions: rotate queries and keys by angles, which DINOv3 and ModernBERT each compute in their own way."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Rotation = tuple[Float[Array, "L K"], Float[Array, "L K"]]  # cosines and sines of every token's angles


def rotate(x_BNLK: Float[Array, "B N L K"], rotation: Rotation) -> Float[Array, "B N L K"]:
    """Rotate each pair (k, k + K/2) of a head's features by its token's angle, in float32."""
    cos_LK, sin_LK = rotation
    x = x_BNLK.astype(jnp.float32)
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos_LK + jnp.concatenate([-second, first], axis=-1) * sin_LK).astype(x_BNLK.dtype)
