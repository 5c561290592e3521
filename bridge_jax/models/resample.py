"""Matrices [new, old] that resample the side of a position grid from `old` to `new` samples, as torch's `interpolate`.

All have half-pixel centres. `cubic` repeats the border; the antialiased ones leave out what lies beyond it.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from bridge_jax.types import Array


def cubic(old: int, new: int) -> Float[Array, "new old"]:
    """Return the weights of `mode="bicubic", antialias=False`: a = -0.75."""
    centre = (jnp.arange(new) + 0.5) * (old / new) - 0.5
    first = jnp.floor(centre)
    weights = jnp.zeros((new, old))
    for offset in range(-1, 3):
        index = jnp.clip(first + offset, 0, old - 1).astype(int)
        weights = weights.at[jnp.arange(new), index].add(_cubic(jnp.abs(centre - (first + offset)), -0.75))
    return weights


def antialiased_cubic(old: int, new: int) -> Float[Array, "new old"]:
    """Return the weights of `mode="bicubic", antialias=True`: a = -0.5."""
    return _antialiased(old, new, lambda x: _cubic(x, -0.5))


def antialiased_linear(old: int, new: int) -> Float[Array, "new old"]:
    """Return the weights of `mode="bilinear", antialias=True`."""
    return _antialiased(old, new, lambda x: jnp.maximum(1 - x, 0))


def _antialiased(old: int, new: int, kernel: Callable[[Array], Array]) -> Float[Array, "new old"]:
    centre = (jnp.arange(new) + 0.5) * (old / new)
    distance = jnp.abs(jnp.arange(old)[None] + 0.5 - centre[:, None]) / max(old / new, 1)
    weights = kernel(distance)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: Array, a: float) -> Array:
    """Return Keys's cubic of a distance x >= 0; zero beyond 2."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0))
