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


class Texts(NamedTuple):
    """The w captions that a row brings."""

    lower: Float[Array, "B w T D"]
    mask: Bool[Array, "B w T"]
    embedded: Float[Array, "B w E"]


class Mined(NamedTuple):
    """Mined partners of each text and each image: their rows in its own group of g, and whether each one exists."""

    images: tuple[Array, Array]  # int32 [G,g,k] and bool [G,g,k], for each text
    texts: tuple[Array, Array]  # for each image
    cosines: Float[Array, "G g g"]  # unimodal, of text i with image j of the group
    left_out: Float[Array, ""] | None = None  # share of the wrong pairs that are false negatives; None: not asked
    brought: Brought | None = None


def wrong_texts(model: BridgeModel, batch: Batch, lower_frozen: bool) -> Texts | None:
    """Run the text tower on the rows' wrong captions; None where they bring none."""
    if batch.wrong_mask is None:
        return None
    return _texts(model, batch.wrong_mask, batch.wrong_ids, None, lower_frozen)


def brought(
    model: BridgeModel, batch: Batch, unimodal: tuple[Array, Array], wrong: Texts | None, lower_frozen: bool
) -> Brought | None:
    """Run the towers on the partners from the whole split, and put the wrong captions behind them. None for nothing.

    `unimodal`: the embeddings [B,E] of the rows' own texts and images.
    """
    text_BE, image_BE = unimodal
    captions = [] if wrong is None else [wrong]
    if batch.partner_text_mask is not None:
        partners = (batch.partner_text_mask, batch.partner_ids, batch.partner_lower_text)
        captions.insert(0, _texts(model, *partners, lower_frozen))
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


def _texts(model: BridgeModel, mask: Array, ids: Array, lower: Array, lower_frozen: bool) -> Texts:
    """Run the text tower on captions that the rows bring, [B,w,T], from their words or from their lower states."""
    B, w, T = mask.shape
    flat = mask.reshape(-1, T)
    if lower is None:
        lower = model.lower_text(ids.reshape(-1, T), flat, deterministic=lower_frozen)
    states = lower.reshape(B * w, T, -1).astype(model.dtype)
    embedded = model.unimodal_text(states, flat, deterministic=False)
    return Texts(states.reshape(B, w, T, -1), mask, embedded.reshape(B, w, -1))


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

    The pairs of a row stay adjacent: if a group lies on one device, so do the states of all its pairs. Returns the
    fields `fused`, `by_text` and `by_image` of Outputs.
    """
    brought = mined.brought
    text_GgC, image_GgC = _pairs(mined)
    G, g, C = text_GgC.shape
    B, k = G * g, mined.images[0].shape[2]

    def take(rows: Array, index_GgC: Array) -> jax.Array:
        pairs = jax.vmap(lambda rows, index: rows[index])(grouped(rows, g), index_GgC)
        return pairs.reshape(B, -1, *rows.shape[1:])

    image_BC, text_BC = take(lower.image, image_GgC), take(lower.text, text_GgC)
    mask_BC = take(lower.text_mask, text_GgC)
    unimodal_BC = jax.vmap(lambda cosines, t, i: cosines[t, i])(mined.cosines, text_GgC, image_GgC).reshape(B, -1)
    by_text_valid, by_image_valid = (valid.reshape(B, k) for _, valid in (mined.images, mined.texts))
    last = C
    if brought is not None:
        image_BC, text_BC, mask_BC = _with_brought((image_BC, text_BC, mask_BC), lower, brought)
        unimodal_BC = jnp.concatenate([unimodal_BC, brought.by_text, brought.by_image], axis=1)
        by_text_valid = jnp.concatenate([by_text_valid, brought.images_valid], axis=1)
        by_image_valid = jnp.concatenate([by_image_valid, brought.texts_mask.any(axis=2)], axis=1)
        last += brought.by_text.shape[1]

    def flat(pairs: Array) -> Array:
        return pairs.reshape(-1, *pairs.shape[2:])

    fused = model.fused(spread(Lower(flat(image_BC), flat(text_BC), flat(mask_BC))), deterministic=False)
    similarity_BC = (fused.text * fused.image).sum(axis=-1).reshape(B, -1)
    scores = similarity_BC, fused.itm_logit.reshape(B, -1), unimodal_BC
    exists_B1 = jnp.ones((B, 1), bool)
    by_text, by_image = [], []
    for score_BC in scores:
        of_text_Bk, of_image_Bk = _mined(score_BC[:, :C], mined)
        by_text.append([score_BC[:, :1], of_text_Bk, score_BC[:, C:last]])
        by_image.append([score_BC[:, :1], of_image_Bk, score_BC[:, last:]])
    true_pairs: Fused = jax.tree.map(lambda x: x.reshape(B, -1, *x.shape[1:])[:, 0], fused)
    return {
        "fused": true_pairs,
        "by_text": _candidates([*by_text, [exists_B1, by_text_valid]]),
        "by_image": _candidates([*by_image, [exists_B1, by_image_valid]]),
    }


def _candidates(parts: list[list[Array]]) -> Candidates:
    return Candidates(*(jnp.concatenate(columns, axis=1) for columns in parts))


def _whole(mined: Mined) -> bool:
    """Return whether every pair of a group is a candidate, of its text and of its image."""
    _, g, k = mined.images[0].shape
    return g == k + 1 > 1


def _pairs(mined: Mined) -> tuple[Int[Array, "G g C"], Int[Array, "G g C"]]:
    """Return the texts and the images of each row's pairs: its true pair, k of its text, k of its image, C = 1 + 2k.

    Where every pair of a group is a candidate, a row has those of its text, and none is fused twice: C = g = 1 + k.
    """
    images_Ggk, texts_Ggk = mined.images[0], mined.texts[0]
    G, g, _ = images_Ggk.shape
    row_g = jnp.arange(g)
    own_Gg1 = jnp.broadcast_to(row_g[:, None], (G, g, 1))
    if _whole(mined):
        text_GgC = jnp.broadcast_to(own_Gg1, (G, g, g))
        return text_GgC, (text_GgC + row_g[None, None]) % g
    own_Ggk = jnp.broadcast_to(own_Gg1, images_Ggk.shape)
    text_GgC = jnp.concatenate([own_Gg1, own_Ggk, texts_Ggk], axis=2)
    return text_GgC, jnp.concatenate([own_Gg1, images_Ggk, own_Ggk], axis=2)


def _mined(score_BC: Float[Array, "B C"], mined: Mined) -> tuple[Float[Array, "B k"], Float[Array, "B k"]]:
    """Return the scores of each text with its mined images, and of each image with its mined texts, from `_pairs`."""
    images_Ggk, texts_Ggk = mined.images[0], mined.texts[0]
    _, g, k = images_Ggk.shape
    if not _whole(mined):
        return score_BC[:, 1 : 1 + k], score_BC[:, 1 + k :]
    row_g = jnp.arange(g)
    column_ti = (row_g[None] - row_g[:, None]) % g  # of the pair of text t and image i
    score_Gti = jnp.take_along_axis(grouped(score_BC, g), column_ti[None], axis=2)
    of_text_Ggk = jnp.take_along_axis(score_Gti, images_Ggk, axis=2)
    of_image_Ggk = jnp.take_along_axis(score_Gti.mT, texts_Ggk, axis=2)
    return of_text_Ggk.reshape(-1, k), of_image_Ggk.reshape(-1, k)


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
