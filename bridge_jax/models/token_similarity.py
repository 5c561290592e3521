"""How well the words of a text and the patches of an image find each other, before anything is fused.

`token_itc` trains it, and the match logit of every fused pair reads it (docs/method.md 2.4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bridge_jax.models import layers


class Compared(NamedTuple):
    """What the attention of one side over the other compares: <query, key> is the cosine, averaged over the heads."""

    query: Float[Array, "B L S"]
    key: Float[Array, "B M S"]


@jax.custom_jvp
def greatest(x: jax.Array) -> jax.Array:
    """Return the maximum over the last axis, whose gradient equals share: of finite x, `jnp.max` bit for bit.

    Equals are counted as integers here. JAX counts them as floats, whose sum XLA does not vectorise on CPUs.
    """
    return x.max(axis=-1)


@greatest.defjvp
def _greatest_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (moved,) = primals, tangents
    found = x.max(axis=-1)
    equal = x == found[..., None]
    return found, jnp.where(equal, moved, 0).sum(axis=-1) / equal.sum(axis=-1)


def token_similarity(by_text: Compared, by_image: Compared, mask: Bool[Array, "B T"]) -> Float[Array, "B"]:
    """Return how well the tokens of text i and of image i find each other.

    Of every real word the cosine with its nearest patch, and of every patch the cosine with its nearest real word; the
    mean of each, and of both (FILIP's token-wise maximum; ColBERT's late interaction).
    """
    words_BTP = jnp.einsum("BTS,BPS->BTP", *by_text).astype(jnp.float32)
    patches_BPT = jnp.einsum("BPS,BTS->BPT", *by_image).astype(jnp.float32)
    nearest_BP = greatest(jnp.where(mask[:, None], patches_BPT, -1.0))
    found_B = layers.masked_mean(greatest(words_BTP)[..., None], mask)[:, 0]
    return (found_B + nearest_BP.mean(axis=-1)) / 2


def token_similarities(by_text: Compared, by_image: Compared, mask: Bool[Array, "G g T"]) -> Float[Array, "G g g"]:
    """Return the `token_similarity` of text i and image j for the g rows of each group; arrays are [G,g,...].

    Where a group lies on one device, so does all that it is made of, [G,g,T,g,P]; the backward pass makes it again.
    """

    def of_group(group: tuple[Compared, Compared, jax.Array]) -> Float[Array, "g g"]:
        of_text, of_image, mask_gT = group
        words_gTgP = jnp.einsum("iTS,jPS->iTjP", *of_text).astype(jnp.float32)
        patches_gPgT = jnp.einsum("jPS,iTS->jPiT", *of_image).astype(jnp.float32)
        nearest_gPg = greatest(jnp.where(mask_gT, patches_gPgT, -1.0))
        found_gg = layers.masked_mean(greatest(words_gTgP), mask_gT)
        return (found_gg + nearest_gPg.mean(axis=1).T) / 2

    return jax.vmap(jax.checkpoint(of_group))((by_text, by_image, mask))
