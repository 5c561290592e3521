"""Captioning: every word of the caption from those before it and the picture."""

import jax
import jax.numpy as jnp
import optax

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("caption",)


def loss(outputs: Outputs, batch: Batch, *, label_smoothing: float) -> Loss:
    """Cross entropy of every next word, the caption's end included, averaged over words (teacher forcing).

    `label_smoothing` is the share of the target that all V words have in common (Szegedy et al. 2016). Metrics:
    `accuracy`, the share of words that the decoder would have chosen.
    """
    logits_BTV, words_BT, said_BT = outputs.caption_logits, batch.ids[:, 1:], batch.text_mask[:, 1:]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, words_BT)
    if label_smoothing:
        even_BT = -jnp.mean(jax.nn.log_softmax(logits_BTV), axis=-1)
        losses_BT = (1 - label_smoothing) * losses_BT + label_smoothing * even_BT
    hit_BT = logits_BTV.argmax(axis=-1) == words_BT
    count = said_BT.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * said_BT).sum(),
        count=count,
        metrics={"accuracy": (hit_BT * said_BT).sum() / jnp.maximum(count, 1)},
    )
