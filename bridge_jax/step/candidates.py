"""Candidates of the fused losses: each text with wrong images, each image with wrong texts, all fused.

Wrong partners are mined among the rows of the batch, or the batch brings them: mined from the whole split, and captions
that are known to be false.
"""

import dataclasses
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


class Brought(NamedTuple):
    """The v pictures and w captions that a row brings for its text and its picture; absent ones are masked."""

    images: Float[Array, "B v P D"]
    images_valid: Bool[Array, "B v"]
    texts: Float[Array, "B w T D"]
    texts_mask: Bool[Array, "B w T"]
    by_text: Float[Array, "B v"]  # unimodal cosines of the row's text with the pictures
    by_image: Float[Array, "B w"]  # of the row's picture with the captions


class Mined(NamedTuple):
    """Mined partners of each text and each image: their rows in its own group of g, and whether each one exists."""

    images: tuple[Array, Array]  # int32 [G,g,k] and bool [G,g,k], for each text
    texts: tuple[Array, Array]  # for each image
    cosines: Float[Array, "G g g"]  # unimodal, of text i with image j of the group
    left_out: Float[Array, ""] | None = None  # share of the wrong pairs that are false negatives; None: not asked
    brought: Brought | None = None


def brought(
    model: BridgeModel, batch: Batch, text_BE: Float[Array, "B E"], image_BE: Float[Array, "B E"], lower_frozen: bool
) -> Brought | None:
    """Run the towers on what the rows bring: partners from the whole split, then wrong captions. None for nothing."""
    captions = [
        _texts(model, mask, ids, lower, lower_frozen)
        for mask, ids, lower in (
            (batch.partner_text_mask, batch.partner_ids, batch.partner_lower_text),
            (batch.wrong_mask, batch.wrong_ids, None),
        )
        if mask is not None
    ]
    if not captions:
        return None
    texts, texts_mask, embedded_BwE = (jnp.concatenate(parts, axis=1) for parts in zip(*captions, strict=True))
    images, seen_BvE = _images(model, batch, image_BE.shape, lower_frozen)
    valid = batch.partner_image_valid
    return Brought(
        images=images,
        images_valid=jnp.ones(images.shape[:2], bool) if valid is None else valid,
        texts=texts,
        texts_mask=texts_mask,
        by_text=jnp.einsum("BvE,BE->Bv", seen_BvE, text_BE),
        by_image=jnp.einsum("BwE,BE->Bw", embedded_BwE, image_BE),
    )


def _texts(model: BridgeModel, mask: Array, ids: Array, lower: Array, lower_frozen: bool) -> tuple[Array, ...]:
    """Return the lower states [B,w,T,D], the mask and the embeddings [B,w,E] of captions that the rows bring."""
    B, w, T = mask.shape
    flat = mask.reshape(-1, T)
    if lower is None:
        lower = model.lower_text(ids.reshape(-1, T), flat, deterministic=lower_frozen)
    states = lower.reshape(B * w, T, -1).astype(model.dtype)
    embedded = model.unimodal_text(states, flat, deterministic=False)
    return states.reshape(B, w, T, -1), mask, embedded.reshape(B, w, -1)


def _images(model: BridgeModel, batch: Batch, shape: tuple[int, ...], lower_frozen: bool) -> tuple[Array, Array]:
    """Return the lower states [B,v,P,D] and the embeddings [B,v,E] of pictures that the rows bring; shape: (B, E)."""
    B, E = shape
    if batch.partner_images is not None:
        pixels = batch.partner_images
        states = model.lower_image(pixels.reshape(-1, *pixels.shape[2:]), deterministic=lower_frozen)
    elif batch.partner_lower_image is not None:
        states = batch.partner_lower_image.reshape(-1, *batch.partner_lower_image.shape[2:])
    else:
        return jnp.zeros((B, 0, 0, 0), model.dtype), jnp.zeros((B, 0, E), model.dtype)
    states = states.astype(model.dtype)
    embedded = model.unimodal_image(states, deterministic=False)
    return states.reshape(B, -1, *states.shape[1:]), embedded.reshape(B, -1, E)


def mine(
    cfg: Config,
    image_ids: Int[Array, "B"],
    text_BE: Float[Array, "B E"],
    image_BE: Float[Array, "B E"],
    key: Array,
) -> Mined:
    """Mine by the unimodal cosines without gradient (docs/method.md 5.1 and 5.13).

    A row's partners come from its own group of `config.mining.group` neighbouring rows. Where the batch brings them,
    none is mined here.
    """
    settings = cfg.mining
    if settings.source == "split":  # only the cosines of the true pairs are needed
        settings = dataclasses.replace(settings, group=1, partners=0, ranks=(0, 0), false_margin=2.0)
    g = settings.group or len(image_ids)
    cosines_Ggg = jnp.einsum("GtE,GiE->Gti", grouped(text_BE, g), grouped(image_BE, g))
    ids_Gg = grouped(image_ids, g)
    same_Ggg = ids_Gg[:, :, None] == ids_Gg[:, None, :]
    fixed_Ggg = jax.lax.stop_gradient(cosines_Ggg)
    text_key, image_key = jax.random.split(key)
    barred, left_out = (same_Ggg, same_Ggg.mT), None
    if settings.false_margin < 2:
        false = [mining.false_negatives(scores, settings) & ~same_Ggg for scores in (fixed_Ggg, fixed_Ggg.mT)]
        barred = same_Ggg | false[0], same_Ggg.mT | false[1]
        left_out = sum(each.sum() for each in false) / jnp.maximum(2 * (~same_Ggg).sum(), 1)
    images = mining.semi_hard(fixed_Ggg, barred[0], text_key, settings)
    return Mined(images, mining.semi_hard(fixed_Ggg.mT, barred[1], image_key, settings), cosines_Ggg, left_out)


def fuse(model: BridgeModel, lower: Lower, mined: Mined, spread: Callable[[Any], Any]) -> dict[str, Any]:
    """Fuse the B true pairs, each text with k mined and v brought images, each image with k mined and w brought texts.

    The C = 1 + 2k + v + w pairs of a row stay adjacent: if a group lies on one device, so do the states of all its
    pairs. Returns the fields `fused`, `by_text` and `by_image` of Outputs.
    """
    (images_Ggk, by_text_valid), (texts_Ggk, by_image_valid), cosines_Ggg, _, brought = mined
    G, g, k = images_Ggk.shape
    B = G * g
    own_Gg1 = jnp.broadcast_to(jnp.arange(g)[:, None], (G, g, 1))
    own_Ggk = jnp.broadcast_to(own_Gg1, images_Ggk.shape)
    image_GgC = jnp.concatenate([own_Gg1, images_Ggk, own_Ggk], axis=2)
    text_GgC = jnp.concatenate([own_Gg1, own_Ggk, texts_Ggk], axis=2)

    def take(rows: Array, index_GgC: Array) -> jax.Array:
        pairs = jax.vmap(lambda rows, index: rows[index])(grouped(rows, g), index_GgC)
        return pairs.reshape(B, -1, *rows.shape[1:])

    image_BC, text_BC = take(lower.image, image_GgC), take(lower.text, text_GgC)
    mask_BC = take(lower.text_mask, text_GgC)
    unimodal_BC = jax.vmap(lambda cosines, t, i: cosines[t, i])(cosines_Ggg, text_GgC, image_GgC).reshape(B, -1)
    by_text, by_text_valid = [slice(1), slice(1, 1 + k)], by_text_valid.reshape(B, k)
    by_image, by_image_valid = [slice(1), slice(1 + k, 1 + 2 * k)], by_image_valid.reshape(B, k)
    if brought is not None:
        image_BC, text_BC, mask_BC = _with_brought((image_BC, text_BC, mask_BC), lower, brought)
        unimodal_BC = jnp.concatenate([unimodal_BC, brought.by_text, brought.by_image], axis=1)
        first, second = 1 + 2 * k, 1 + 2 * k + brought.by_text.shape[1]
        by_text, by_image = [*by_text, slice(first, second)], [*by_image, slice(second, None)]
        by_text_valid = jnp.concatenate([by_text_valid, brought.images_valid], axis=1)
        by_image_valid = jnp.concatenate([by_image_valid, brought.texts_mask.any(axis=2)], axis=1)

    def flat(pairs: Array) -> Array:
        return pairs.reshape(-1, *pairs.shape[2:])

    fused = model.fused(spread(Lower(flat(image_BC), flat(text_BC), flat(mask_BC))), deterministic=False)
    similarity_BC = (fused.text * fused.image).sum(axis=-1).reshape(B, -1)
    match_BC = fused.itm_logit.reshape(B, -1)

    def candidates(columns: list[slice], valid_BC: Array) -> Candidates:
        def picked(values_BC: Array) -> jax.Array:
            return jnp.concatenate([values_BC[:, part] for part in columns], axis=1)

        return Candidates(
            similarity=picked(similarity_BC),
            itm_logit=picked(match_BC),
            unimodal=picked(unimodal_BC),
            valid=jnp.concatenate([jnp.ones((B, 1), bool), valid_BC], axis=1),
        )

    true_pairs: Fused = jax.tree.map(lambda x: x.reshape(B, -1, *x.shape[1:])[:, 0], fused)
    return {
        "fused": true_pairs,
        "by_text": candidates(by_text, by_text_valid),
        "by_image": candidates(by_image, by_image_valid),
    }


def _with_brought(pairs: tuple[Array, Array, Array], lower: Lower, brought: Brought) -> list[Array]:
    """Return image, text and text mask of a row's pairs, [B,C,...], with what the row brings behind them.

    The row's text meets the v pictures, then its picture the w captions.
    """
    v, w = brought.by_text.shape[1], brought.by_image.shape[1]

    def own(rows: Array, count: int) -> Array:
        return jnp.repeat(rows[:, None], count, axis=1)

    behind = (
        [*([brought.images] if v else []), own(lower.image, w)],
        [own(lower.text, v), brought.texts],
        [own(lower.text_mask, v), brought.texts_mask],
    )
    return [jnp.concatenate([mined, *more], axis=1) for mined, more in zip(pairs, behind, strict=True)]
