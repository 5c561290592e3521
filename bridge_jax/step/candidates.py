"""Candidates of the fused losses: each text with mined images, each image with mined and wrong texts, all fused."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Config
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.layers import grouped
from bridge_jax.step import mining
from bridge_jax.types import Array, Batch, Candidates, Fused, Lower


class Wrong(NamedTuple):
    """The w wrong captions of each row; rows that the record lacks are masked."""

    lower: Float[Array, "B w T D"]
    mask: Bool[Array, "B w T"]
    cosines: Float[Array, "B w"]  # unimodal, with the row's picture


class Mined(NamedTuple):
    """Mined partners of each text and each image: their rows in its own group of g, and whether each one exists."""

    images: tuple[Array, Array]  # int32 [G,g,k] and bool [G,g,k], for each text
    texts: tuple[Array, Array]  # for each image
    cosines: Float[Array, "G g g"]  # unimodal, of text i with image j of the group
    wrong: Wrong | None = None


def wrong_texts(model: BridgeModel, batch: Batch, image_BE: Float[Array, "B E"], lower_frozen: bool) -> Wrong | None:
    """Run the text tower on the wrong captions of the batch; None if it has none."""
    if batch.wrong_ids is None:
        return None
    B, w, T = batch.wrong_ids.shape
    mask = batch.wrong_mask.reshape(-1, T)
    lower = model.lower_text(batch.wrong_ids.reshape(-1, T), mask, deterministic=lower_frozen).astype(model.dtype)
    text_BwE = model.unimodal_text(lower, mask, deterministic=False).reshape(B, w, -1)
    cosines_Bw = jnp.einsum("BwE,BE->Bw", text_BwE, image_BE)
    return Wrong(lower.reshape(B, w, T, -1), batch.wrong_mask, cosines_Bw)


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
    """Fuse the B true pairs, each text with k mined images, each image with k mined and w wrong texts, in one call.

    The C = 1 + 2k + w pairs of a row stay adjacent: if a group lies on one device, so do the states of all its pairs.
    Returns the fields `fused`, `by_text` and `by_image` of Outputs.
    """
    (images_Ggk, by_text_valid), (texts_Ggk, by_image_valid), cosines_Ggg, wrong = mined
    G, g, k = images_Ggk.shape
    B = G * g
    own_Gg1 = jnp.broadcast_to(jnp.arange(g)[:, None], (G, g, 1))
    own_Ggk = jnp.broadcast_to(own_Gg1, images_Ggk.shape)
    image_GgC = jnp.concatenate([own_Gg1, images_Ggk, own_Ggk], axis=2)
    text_GgC = jnp.concatenate([own_Gg1, own_Ggk, texts_Ggk], axis=2)

    def take(rows: Array, index_GgC: Array, last: Array | None) -> jax.Array:
        pairs = jax.vmap(lambda rows, index: rows[index])(grouped(rows, g), index_GgC)
        pairs = pairs.reshape(B, -1, *rows.shape[1:])
        pairs = pairs if last is None else jnp.concatenate([pairs, last], axis=1)
        return pairs.reshape(-1, *rows.shape[1:])

    images = None if wrong is None else jnp.repeat(lower.image[:, None], wrong.mask.shape[1], axis=1)
    texts, masks = (None, None) if wrong is None else (wrong.lower, wrong.mask)
    pairs = Lower(
        image=take(lower.image, image_GgC, images),
        text=take(lower.text, text_GgC, texts),
        text_mask=take(lower.text_mask, text_GgC, masks),
    )
    fused = model.fused(spread(pairs), deterministic=False)
    similarity_BC = (fused.text * fused.image).sum(axis=-1).reshape(B, -1)
    match_BC = fused.itm_logit.reshape(B, -1)
    unimodal_BC = jax.vmap(lambda cosines, t, i: cosines[t, i])(cosines_Ggg, text_GgC, image_GgC).reshape(B, -1)
    by_text_valid, by_image_valid = by_text_valid.reshape(B, k), by_image_valid.reshape(B, k)
    if wrong is not None:
        unimodal_BC = jnp.concatenate([unimodal_BC, wrong.cosines], axis=1)
        by_image_valid = jnp.concatenate([by_image_valid, wrong.mask.any(axis=2)], axis=1)

    def candidates(first: int, valid_BC: Array) -> Candidates:
        def columns(values_BC: Array) -> jax.Array:
            return jnp.concatenate([values_BC[:, :1], values_BC[:, first : first + valid_BC.shape[1]]], axis=1)

        return Candidates(
            similarity=columns(similarity_BC),
            itm_logit=columns(match_BC),
            unimodal=columns(unimodal_BC),
            valid=jnp.concatenate([jnp.ones((B, 1), bool), valid_BC], axis=1),
        )

    true_pairs: Fused = jax.tree.map(lambda x: x.reshape(B, -1, *x.shape[1:])[:, 0], fused)
    return {"fused": true_pairs, "by_text": candidates(1, by_text_valid), "by_image": candidates(1 + k, by_image_valid)}
