"""The forward passes (`config.objectives.PASSES`). Each runs once a step, and only if an active loss needs it.

All passes start from one `lower` pass, or from cached states that replace it. The `output` of a single loss is a pass
with that loss's name.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, UInt8

from bridge_jax.config import objectives
from bridge_jax.models import layers
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import candidates
from bridge_jax.types import Array, Batch, Lower, Outputs, Params


def passes_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the shared passes that the losses `names` need, then the names of the losses with their own `output`."""
    needs = {name: objectives.needs(name) for name in objectives.in_order(names)}
    shared = [each for need in needs.values() for each in need.passes]
    own = [name for name, need in needs.items() if need.output]
    return tuple(dict.fromkeys((*shared, *own)))


class Forward(NamedTuple):
    """How a stage runs its forward pass.

    `lower_frozen`: nothing below the first bridged layer trains. The lower pass then runs without dropout, so states
    from the cache equal computed ones.
    `spread` places rows of states on the mesh like the rows of the batch.
    """

    passes: Collection[str]  # from `passes_of`
    lower_frozen: bool
    spread: Callable[[Any], Any] = lambda rows: rows


class Keys(NamedTuple):
    """The random keys of a step's forward pass."""

    dropout: Array
    mining: Array


def outputs(model: BridgeModel, params: Params, batch: Batch, how: Forward, keys: Keys) -> Outputs:
    """Run a stage's passes in training mode (dropout on)."""
    passes = how.passes

    def run(model: BridgeModel) -> Outputs:
        lower = how.spread(_lower(model, batch, deterministic=how.lower_frozen))
        computed: dict[str, Any] = {"logit_scale": model.heads.logit_scale()}
        mask = lower.text_mask  # text mask of the fused pairs
        if {"unimodal", "mismatched"} & set(passes):
            computed["unimodal_image"] = model.unimodal_image(lower.image, deterministic=False)
            computed["unimodal_text"] = model.unimodal_text(lower.text, lower.text_mask, deterministic=False)
            wrong = candidates.wrong_texts(model, batch, how.lower_frozen)
            computed["unimodal_wrong"] = None if wrong is None else wrong.embedded
        if "mismatched" in passes:
            unimodal = (computed["unimodal_text"], computed["unimodal_image"])
            mined = candidates.mine(model.cfg, batch.image_ids, *unimodal, keys.mining)
            brought = candidates.brought(model, batch, unimodal, wrong, how.lower_frozen)
            computed |= candidates.fuse(model, lower, mined._replace(brought=brought), how.spread)
            computed["left_out"] = mined.left_out
        elif "fused" in passes:
            computed["fused"] = model.fused(lower, deterministic=False)
        elif "each_picture" in passes:
            pairs = each_picture(lower)
            computed["fused"], mask = model.fused(how.spread(pairs), deterministic=False), pairs.text_mask
        inputs = objectives.Inputs(batch, lower, computed.get("fused"), mask, how.lower_frozen, deterministic=False)
        heads = {name: objectives.needs(name).output for name in passes if name not in objectives.PASSES}
        return Outputs(**computed, own={name: output(model, inputs) for name, output in heads.items() if output})

    return nn.apply(run, model)({"params": params}, rngs={"dropout": keys.dropout})


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
    """Run the lower image tower on each row's picture, or on each of its k pictures."""
    *rows, H, W, channels = images.shape
    states = model.lower_image(images.reshape(-1, H, W, channels), deterministic=deterministic)
    return states.reshape(*rows, *states.shape[1:])


def unimodal_images(model: BridgeModel, lower: Float[Array, "B *k P D"]) -> Float[Array, "B E"]:
    """Embed each row's picture, or its k pictures as one: the L2-normalised mean of their embeddings."""
    *rows, P, D = lower.shape
    embeddings = model.unimodal_image(lower.reshape(-1, P, D))
    if len(rows) == 1:
        return embeddings
    return layers.l2_normalise(embeddings.reshape(*rows, -1).mean(axis=1))


def each_picture(lower: Lower) -> Lower:
    """Pair the text of every row with each of the row's k pictures: [B*k] pairs.

    The pairs of a row stay adjacent, and therefore on one device.
    """
    *rows, P, D = lower.image.shape
    k = rows[1] if len(rows) > 1 else 1
    text, mask = (jnp.repeat(x, k, axis=0) for x in (lower.text, lower.text_mask))
    return Lower(image=lower.image.reshape(-1, P, D), text=text, text_mask=mask)
