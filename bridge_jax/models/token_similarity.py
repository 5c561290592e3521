"""The similarity of a text and an image by their tokens, computed before anything is fused.

The loss `token_itc` trains it, and the match logit of every fused pair includes it (docs/method.md 2.4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from bridge_jax.models import layers
from bridge_jax.types import Array


class QueryKey(NamedTuple):
    """Queries of one side and keys of the other: <query, key> is their cosine, averaged over the heads."""

    query: Float[Array, "B L S"]
    key: Float[Array, "B M S"]


@jax.custom_jvp
def greatest(x: Array) -> jax.Array:
    """Return the maximum over the last axis; equal maxima share its gradient. For finite x, `jnp.max` bit for bit.

    Equal maxima are counted as integers. JAX counts them as floats, whose sum XLA does not vectorise on CPUs.
    """
    return x.max(axis=-1)


@greatest.defjvp
def _greatest_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    maximum = x.max(axis=-1)
    equal = x == maximum[..., None]
    return maximum, jnp.where(equal, tangent, 0).sum(axis=-1) / equal.sum(axis=-1)


def token_similarity(by_text: QueryKey, by_image: QueryKey, mask: Bool[Array, "B T"]) -> Float[Array, "B"]:
    """Return the token similarity of text i and image i.

    Take each real word's cosine with its nearest patch and each patch's cosine with its nearest real word; average
    each kind, then the two means (FILIP's token-wise maximum; ColBERT's late interaction).
    """
    words_BTP = jnp.einsum("BTS,BPS->BTP", *by_text).astype(jnp.float32)
    patches_BPT = jnp.einsum("BPS,BTS->BPT", *by_image).astype(jnp.float32)
    nearest_word_BP = greatest(jnp.where(mask[:, None], patches_BPT, -1.0))
    text_mean_B = layers.masked_mean(greatest(words_BTP)[..., None], mask)[:, 0]
    return (text_mean_B + nearest_word_BP.mean(axis=-1)) / 2


def token_similarities(by_text: QueryKey, by_image: QueryKey, mask: Bool[Array, "G g T"]) -> Float[Array, "G g g"]:
    """Return the `token_similarity` of text i and image j for the g rows of each group; arrays are [G,g,...].

    A group that lies on one device keeps its cosines, [G,g,T,g,P], on that device. The backward pass recomputes them.
    """

    def group_similarities(group: tuple[QueryKey, QueryKey, jax.Array]) -> Float[Array, "g g"]:
        group_by_text, group_by_image, mask_gT = group
        words_gTgP = jnp.einsum("iTS,jPS->iTjP", *group_by_text).astype(jnp.float32)
        patches_gPgT = jnp.einsum("jPS,iTS->jPiT", *group_by_image).astype(jnp.float32)
        nearest_word_gPg = greatest(jnp.where(mask_gT, patches_gPgT, -1.0))
        text_mean_gg = layers.masked_mean(greatest(words_gTgP), mask_gT)
        return (text_mean_gg + nearest_word_gPg.mean(axis=1).T) / 2

    return jax.vmap(jax.checkpoint(group_similarities))((by_text, by_image, mask))
