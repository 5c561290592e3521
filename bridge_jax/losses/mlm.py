"""Masked language modelling: predict the masked words from the caption's rest and the whole picture."""

import jax.numpy as jnp
import optax

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("masked_text",)


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Cross entropy over the vocabulary at the masked positions. The masking was done in the data path."""
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(outputs.mlm_logits, batch.ids)
    hit_BT = outputs.mlm_logits.argmax(axis=-1) == batch.ids
    count = batch.masked_text.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * batch.masked_text).sum(),
        count=count,
        metrics={"accuracy": (hit_BT * batch.masked_text).sum() / jnp.maximum(count, 1)},
    )
