"""Semi-hard mining: choose, from a group of rows, the partners that a query is fused with beside its true one."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config.keys import Mining
from bridge_jax.types import Array


def false_negatives(scores: Float[Array, "... B B"], settings: Mining) -> Bool[Array, "... B B"]:
    """Return which columns score so far above the row's true pair that they must match it, though no label says so."""
    return scores > _true(scores) + settings.false_margin


def semi_hard(
    scores: Float[Array, "... B B"], barred: Bool[Array, "... B B"], key: Array, settings: Mining
) -> tuple[Int[Array, "... B k"], Bool[Array, "... B k"]]:
    """Pick `settings.partners` columns for each row: uniformly from the band, then the hardest of the rest.

    The band is S_ii - margin_max < S_ij < S_ii - margin_min on unimodal cosines, or the ranks `settings.ranks` among
    the columns that are not barred (docs/method.md 3.1). The paper takes the hardest only where the band is empty; with
    several partners a band that holds too few is filled up the same way. `barred` columns are never picked: those of
    the row's own image, and false negatives. The second array is False where no other column is left.
    """
    first, last = settings.ranks
    if last:
        order = jnp.argsort(jnp.where(barred, -jnp.inf, scores), axis=-1, descending=True)
        rank = 1 + jnp.argsort(order, axis=-1)
        in_band = (rank >= first) & (rank <= last)
    else:
        true_B1 = _true(scores)
        in_band = (scores > true_B1 - settings.margin_max) & (scores < true_B1 - settings.margin_min)
    uniform = jax.random.uniform(key, scores.shape)
    # Cosines lie in [-1, 1]: every band column outranks every other one, and those rank by hardness.
    priority = jnp.where(in_band, 2.0 + uniform, scores)
    priority = jnp.where(barred, -jnp.inf, priority)
    partners = settings.partners
    best, index = jax.lax.top_k(priority, min(partners, scores.shape[-1]))
    missing = [(0, 0)] * (index.ndim - 1) + [(0, partners - index.shape[-1])]  # a group smaller than `partners`
    return jnp.pad(index, missing), jnp.isfinite(jnp.pad(best, missing, constant_values=-jnp.inf))


def _true(scores: Float[Array, "... B B"]) -> Float[Array, "... B 1"]:
    return jnp.diagonal(scores, axis1=-2, axis2=-1)[..., None]
