"""The named passes, each run once and only if an active loss needs it.

    unimodal      both towers alone
    fused         every true pair through the bridge
    mismatched    each text with mined images and each image with mined texts, really fused, in the same batched call
    each_picture  the row's text fused with each of the row's pictures

A loss may bring a pass of its own, which has its name (`objectives.Needs.own`), or a head that reads the fused pairs
(`objectives.Needs.score`). All of them start from one `lower` pass, or from cached states that replace it.
"""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from bridge_jax.config import Config, objectives
from bridge_jax.models import layers
from bridge_jax.models.bridge import BridgeModel, meeting_blocks
from bridge_jax.models.layers import grouped
from bridge_jax.step import mining
from bridge_jax.types import Batch, Candidates, Fused, Lower, Outputs, Params


def passes_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the passes that the losses `names` need, and the names of those that have one of their own or a head."""
    needs = {name: objectives.needs(name) for name in objectives.in_order(names)}
    shared = [name for each in needs.values() for name in each.passes]
    return tuple(dict.fromkeys((*shared, *(name for name, each in needs.items() if each.output))))


def outputs(
    model: BridgeModel,
    params: Params,
    batch: Batch,
    *,
    passes: Collection[str],
    dropout_key: jax.Array,
    mining_key: jax.Array,
    lower_frozen: bool,
    spread: Callable[[Any], Any] = lambda rows: rows,
) -> Outputs:
    """Run `passes` (of `passes_of`) in training mode (dropout on).

    `spread` says where the rows of states lie, as the batch's do over the devices of a mesh.

    `lower_frozen`: nothing below the first bridged layer trains. A frozen tower is a fixed function, so the lower
    pass then runs without dropout, and reading its states from the cache changes nothing.
    """

    def run(model: BridgeModel) -> Outputs:
        lower = spread(_lower(model, batch, deterministic=lower_frozen))
        found: dict[str, Any] = {"logit_scale": model.heads.logit_scale()}
        mask = lower.text_mask  # of the fused pairs
        if {"unimodal", "mismatched"} & set(passes):
            found["unimodal_image"] = model.unimodal_image(lower.image, deterministic=False)
            found["unimodal_text"] = model.unimodal_text(lower.text, lower.text_mask, deterministic=False)
        if "mismatched" in passes:
            found |= _fused_and_mismatched(model, lower, batch, found, mining_key, spread)
        elif "fused" in passes:
            found["fused"] = model.fused(lower, deterministic=False)
        elif "each_picture" in passes:
            pairs = each_picture(lower)
            found["fused"], mask = model.fused(spread(pairs), deterministic=False), pairs.text_mask
        inputs = objectives.Inputs(batch, lower, found.get("fused"), mask, lower_frozen, deterministic=False)
        outputs = {name: objectives.needs(name).output for name in passes if name not in objectives.PASSES}
        own = {name: output(model, inputs) for name, output in outputs.items() if output}
        return Outputs(**found, own=own)

    return nn.apply(run, model)({"params": params}, rngs={"dropout": dropout_key})


def _lower(model: BridgeModel, batch: Batch, deterministic: bool) -> Lower:
    image, text = batch.lower_image, batch.lower_text
    if image is None:
        image = lower_images(model, batch.images, deterministic=deterministic)
    if text is None:
        text = model.lower_text(batch.ids, batch.text_mask, deterministic=deterministic)
    return Lower(image=image.astype(model.dtype), text=text.astype(model.dtype), text_mask=batch.text_mask)


def lower_images(
    model: BridgeModel, images: UInt8[Array, "B *k H W 3"], deterministic: bool = True
) -> Float[Array, "B *k P D"]:
    """Run the lower image tower on a picture a row, or on each of a row's k pictures."""
    *rows, H, W, channels = images.shape
    states = model.lower_image(images.reshape(-1, H, W, channels), deterministic=deterministic)
    return states.reshape(*rows, *states.shape[1:])


def unimodal_images(model: BridgeModel, lower: Float[Array, "B *k P D"]) -> Float[Array, "B E"]:
    """Embed a picture a row, or all of a row's k pictures as one: the mean of their embeddings, of length one."""
    *rows, P, D = lower.shape
    embeddings = model.unimodal_image(lower.reshape(-1, P, D))
    if len(rows) == 1:
        return embeddings
    return layers.l2_normalise(embeddings.reshape(*rows, -1).mean(axis=1))


def each_picture(lower: Lower) -> Lower:
    """Return the text of every row with each of the row's k pictures, [B*k] pairs.

    The pairs of a row stay side by side, and so on one device.
    """
    *rows, P, D = lower.image.shape
    k = rows[1] if len(rows) > 1 else 1
    text, mask = (jnp.repeat(x, k, axis=0) for x in (lower.text, lower.text_mask))
    return Lower(image=lower.image.reshape(-1, P, D), text=text, text_mask=mask)


def _fused_and_mismatched(
    model: BridgeModel,
    lower: Lower,
    batch: Batch,
    found: dict[str, Any],
    key: jax.Array,
    spread: Callable[[Any], Any],
) -> dict[str, Any]:
    """Fuse the B true pairs, each text with k mined images and each image with k mined texts, in one call.

    Mining reads the unimodal cosines without gradient (docs/method.md 5.1 and 5.13). The partners of a row come
    from its own group of `config.mining.group` neighbouring rows, and the C = 1 + 2k pairs of a row stay side by side:
    where a group lies on one device, so do all the states that its pairs are made of.
    """
    B, k = batch.image_ids.shape[0], model.cfg.mining.partners
    g = model.cfg.mining.group or B
    cosines_Ggg = jnp.einsum("GtE,GiE->Gti", grouped(found["unimodal_text"], g), grouped(found["unimodal_image"], g))
    (images_Ggk, by_text_valid), (texts_Ggk, by_image_valid) = _partners(model.cfg, batch, cosines_Ggg, key)
    own_Gg1 = jnp.broadcast_to(jnp.arange(g)[:, None], (B // g, g, 1))
    own_Ggk = jnp.broadcast_to(own_Gg1, images_Ggk.shape)
    image_GgC = jnp.concatenate([own_Gg1, images_Ggk, own_Ggk], axis=2)
    text_GgC = jnp.concatenate([own_Gg1, own_Ggk, texts_Ggk], axis=2)

    def take(rows: jax.Array, index_GgC: jax.Array) -> jax.Array:
        pairs = jax.vmap(lambda rows, index: rows[index])(grouped(rows, g), index_GgC)
        return pairs.reshape(-1, *rows.shape[1:])

    pairs = Lower(
        image=take(lower.image, image_GgC), text=take(lower.text, text_GgC), text_mask=take(lower.text_mask, text_GgC)
    )
    fused = model.fused(spread(pairs), deterministic=False)
    similarity_BC = (fused.text * fused.image).sum(axis=-1).reshape(B, -1)
    match_BC = fused.itm_logit.reshape(B, -1)
    unimodal_BC = jax.vmap(lambda cosines, t, i: cosines[t, i])(cosines_Ggg, text_GgC, image_GgC).reshape(B, -1)

    def candidates(first: int, valid_Ggk: jax.Array) -> Candidates:
        def columns(values_BC: jax.Array) -> jax.Array:
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


def _partners(cfg: Config, batch: Batch, cosines_Ggg: jax.Array, key: jax.Array) -> Any:
    """Return the partners of every text and of every image, as rows of their group, each with whether there is one."""
    band = (cfg.mining.partners, cfg.mining.margin_min, cfg.mining.margin_max)
    ids_Gg = grouped(batch.image_ids, cosines_Ggg.shape[-1])
    same_Ggg = ids_Gg[:, :, None] == ids_Gg[:, None, :]
    fixed_Ggg = jax.lax.stop_gradient(cosines_Ggg)
    text_key, image_key = jax.random.split(key)
    images = mining.semi_hard(fixed_Ggg, same_Ggg, text_key, *band)
    return images, mining.semi_hard(fixed_Ggg.mT, same_Ggg.mT, image_key, *band)


def is_lower(path: str, cfg: Config) -> bool:
    """Return whether the lower pass reads this parameter."""
    tower, _, rest = path.partition("/")
    if tower not in ("vision", "text"):
        return False
    first = meeting_blocks(cfg)[0 if tower == "vision" else 1]
    if not first or cfg.bridge.placement == "after":
        return True
    name = rest.partition("/")[0]
    if name.startswith("block_"):
        return int(name.removeprefix("block_")) <= first[0]
    return (tower, name) not in (("vision", "norm"), ("text", "final_norm"))
