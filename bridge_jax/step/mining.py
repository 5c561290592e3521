"""Semi-hard mining: choose, from a group of rows, the partners that a query is fused with beside its true one."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.types import Array


def semi_hard(
    scores: Float[Array, "... B B"],
    same_image: Bool[Array, "... B B"],
    key: Array,
    partners: int,
    margin_min: float,
    margin_max: float,
) -> tuple[Int[Array, "... B k"], Bool[Array, "... B k"]]:
    """Pick `partners` columns for each row: uniformly from the band, then the hardest of the rest.

    The band is S_ii - margin_max < S_ij < S_ii - margin_min on unimodal cosines (docs/method.md 3.1). The paper takes
    the hardest only where the band is empty; with several partners a band that holds too few is filled up the same
    way. Columns of the row's own image are never picked. The second array is False where no other column is left.
    """
    true_B1 = jnp.diagonal(scores, axis1=-2, axis2=-1)[..., None]
    in_band = (scores > true_B1 - margin_max) & (scores < true_B1 - margin_min)
    uniform = jax.random.uniform(key, scores.shape)
    # Cosines lie in [-1, 1]: every band column outranks every other one, and those rank by hardness.
    priority = jnp.where(in_band, 2.0 + uniform, scores)
    priority = jnp.where(same_image, -jnp.inf, priority)
    best, index = jax.lax.top_k(priority, min(partners, scores.shape[-1]))
    missing = [(0, 0)] * (index.ndim - 1) + [(0, partners - index.shape[-1])]  # a group smaller than `partners`
    return jnp.pad(index, missing), jnp.isfinite(jnp.pad(best, missing, constant_values=-jnp.inf))
