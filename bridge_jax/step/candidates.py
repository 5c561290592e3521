"""Candidates of the fused losses: each text with mined images, each image with mined texts, every pair fused."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from bridge_jax.config import Config
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.layers import grouped
from bridge_jax.step import mining
from bridge_jax.types import Array, Candidates, Fused, Lower


class Mined(NamedTuple):
    """Mined partners of each text and each image: their rows in its own group of g, and whether each one exists."""

    images: tuple[Array, Array]  # int32 [G,g,k] and bool [G,g,k], for each text
    texts: tuple[Array, Array]  # for each image
    cosines: Float[Array, "G g g"]  # unimodal, of text i with image j of the group


def mine(
    cfg: Config,
    image_ids: Int[Array, "B"],
    text_BE: Float[Array, "B E"],
    image_BE: Float[Array, "B E"],
    key: Array,
) -> Mined:
    """Mine by the unimodal cosines without gradient (docs/method.md 5.1 and 5.13).

    A row's partners come from its own group of `config.mining.group` neighbouring rows.
    """
    g = cfg.mining.group or len(image_ids)
    cosines_Ggg = jnp.einsum("GtE,GiE->Gti", grouped(text_BE, g), grouped(image_BE, g))
    band = (cfg.mining.partners, cfg.mining.margin_min, cfg.mining.margin_max)
    ids_Gg = grouped(image_ids, g)
    same_Ggg = ids_Gg[:, :, None] == ids_Gg[:, None, :]
    fixed_Ggg = jax.lax.stop_gradient(cosines_Ggg)
    text_key, image_key = jax.random.split(key)
    images = mining.semi_hard(fixed_Ggg, same_Ggg, text_key, *band)
    return Mined(images, mining.semi_hard(fixed_Ggg.mT, same_Ggg.mT, image_key, *band), cosines_Ggg)


def fuse(model: BridgeModel, lower: Lower, mined: Mined, spread: Callable[[Any], Any]) -> dict[str, Any]:
    """Fuse the B true pairs, each text with k mined images and each image with k mined texts, in one call.

    The C = 1 + 2k pairs of a row stay adjacent: if a group lies on one device, so do the states of all its pairs.
    Returns the fields `fused`, `by_text` and `by_image` of Outputs.
    """
    (images_Ggk, by_text_valid), (texts_Ggk, by_image_valid), cosines_Ggg = mined
    G, g, k = images_Ggk.shape
    B = G * g
    own_Gg1 = jnp.broadcast_to(jnp.arange(g)[:, None], (G, g, 1))
    own_Ggk = jnp.broadcast_to(own_Gg1, images_Ggk.shape)
    image_GgC = jnp.concatenate([own_Gg1, images_Ggk, own_Ggk], axis=2)
    text_GgC = jnp.concatenate([own_Gg1, own_Ggk, texts_Ggk], axis=2)

    def take(rows: Array, index_GgC: Array) -> jax.Array:
        pairs = jax.vmap(lambda rows, index: rows[index])(grouped(rows, g), index_GgC)
        return pairs.reshape(-1, *rows.shape[1:])

    pairs = Lower(
        image=take(lower.image, image_GgC), text=take(lower.text, text_GgC), text_mask=take(lower.text_mask, text_GgC)
    )
    fused = model.fused(spread(pairs), deterministic=False)
    similarity_BC = (fused.text * fused.image).sum(axis=-1).reshape(B, -1)
    match_BC = fused.itm_logit.reshape(B, -1)
    unimodal_BC = jax.vmap(lambda cosines, t, i: cosines[t, i])(cosines_Ggg, text_GgC, image_GgC).reshape(B, -1)

    def candidates(first: int, valid_Ggk: Array) -> Candidates:
        def columns(values_BC: Array) -> jax.Array:
            return jnp.concatenate([values_BC[:, :1], values_BC[:, first : first + k]], axis=1)

        valid_BC = jnp.concatenate([jnp.ones((B, 1), bool), valid_Ggk.reshape(B, k)], axis=1)
        return Candidates(
            similarity=columns(similarity_BC),
            itm_logit=columns(match_BC),
            unimodal=columns(unimodal_BC),
            valid=valid_BC,
        )

    true_pairs: Fused = jax.tree.map(lambda x: x.reshape(B, 1 + 2 * k, *x.shape[1:])[:, 0], fused)
    return {
        "fused": true_pairs,
        "by_text": candidates(1, by_text_valid),
        "by_image": candidates(1 + k, by_image_valid),
    }
