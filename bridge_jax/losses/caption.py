"""Captioning: predict every word of a caption from the picture and the words before it."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from bridge_jax.config.objectives import Inputs, Needs
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Batch, Loss, Lower, Outputs


def loss(outputs: Outputs, batch: Batch, *, label_smoothing: float) -> Loss:
    """Return the cross entropy of every next word, the caption's end included, averaged over words (teacher forcing).

    `label_smoothing` is the share of the target that is spread evenly over all V words (Szegedy et al. 2016). Metrics:
    `accuracy`, the share of words to which the decoder gives the highest logit.
    """
    logits_BTV, words_BT, mask_BT = outputs.own["caption"], batch.ids[:, 1:], batch.text_mask[:, 1:]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, words_BT)
    if label_smoothing:
        uniform_BT = -jnp.mean(jax.nn.log_softmax(logits_BTV), axis=-1)
        losses_BT = (1 - label_smoothing) * losses_BT + label_smoothing * uniform_BT
    correct_BT = logits_BTV.argmax(axis=-1) == words_BT
    count = mask_BT.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * mask_BT).sum(),
        count=count,
        metrics={"accuracy": (correct_BT * mask_BT).sum() / jnp.maximum(count, 1)},
    )


def caption_words(model: BridgeModel, inputs: Inputs) -> Float[Array, "B t V"]:
    """Return the logits of the t = T - 1 words after the first, each from the picture and the words before it."""
    memory = model.memory(_without_text(model, inputs), deterministic=inputs.deterministic)
    return model.decoder(inputs.batch.ids[:, :-1], memory, deterministic=inputs.deterministic)


def _without_text(model: BridgeModel, inputs: Inputs) -> Lower:
    """Replace the caption by an empty text, its start and end tokens, if the decoder reads fused states.

    The towers meet before the decoder writes, so the caption in the text tower would reveal the words to predict.
    """
    if model.decoder.cfg.reads == "image":
        return inputs.lower
    ids_BT, mask_BT = inputs.batch.ids, inputs.batch.text_mask
    last_B1 = mask_BT.sum(axis=1, keepdims=True) - 1
    end_B1 = jnp.take_along_axis(ids_BT, last_B1, axis=1)
    empty_BT = jnp.where(jnp.arange(ids_BT.shape[1]) == 0, ids_BT[:, :1], end_B1)
    mask_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]) < 2, ids_BT.shape)
    text = model.lower_text(empty_BT, mask_BT, deterministic=inputs.lower_frozen)
    return dataclasses.replace(inputs.lower, text=text.astype(model.dtype), text_mask=mask_BT)


NEEDS = Needs(passes=(), output=caption_words, reads="captions", decoder=("image", "fused"), evaluator="caption")
