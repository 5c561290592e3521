"""Masked language modelling: predict the masked words from the other words and the whole picture."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from bridge_jax.config import Config
from bridge_jax.config.objectives import Fields, Inputs, MakeFields, Needs, Row
from bridge_jax.data import masking, text
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import MaskedHead
from bridge_jax.types import Array, Batch, Fused, Loss, Outputs


def loss(outputs: Outputs, batch: Batch, *, mask_fraction: float) -> Loss:
    """Return the cross entropy over the vocabulary at the masked positions.

    `mask_fraction`: share of a caption's tokens that are masked, 0 to 1; the data path masks them (`maker`). Metrics:
    `accuracy`, the share of masked tokens that get the highest logit.
    """
    del mask_fraction
    logits_BTV, masked_BT = outputs.own["mlm"], batch.extras["masked_text"]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.ids)
    correct_BT = logits_BTV.argmax(axis=-1) == batch.ids
    count = masked_BT.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * masked_BT).sum(),
        count=count,
        metrics={"accuracy": (correct_BT * masked_BT).sum() / jnp.maximum(count, 1)},
    )


def words(model: BridgeModel, fused: Fused) -> Float[Array, "B T V"]:
    """Return the logits of the word at every position."""
    return model.heads.by_loss["mlm"](fused.text_states)


def masked_text(model: BridgeModel, inputs: Inputs) -> Float[Array, "B T V"]:
    """Fuse the masked caption with its whole picture; return the logits of the word at every position."""
    batch = inputs.batch
    masked = model.lower_text(batch.extras["masked_ids"], batch.text_mask, deterministic=inputs.lower_frozen)
    lower = dataclasses.replace(inputs.lower, text=masked)
    return words(model, model.fused(lower, deterministic=inputs.deterministic))


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of `masked_ids`, the ids after masking, and `masked_text`, True at the positions to predict."""
    T = cfg.text.length
    return {
        "masked_ids": jax.ShapeDtypeStruct((T,), np.int32),
        "masked_text": jax.ShapeDtypeStruct((T,), np.bool_),
    }


def _make(
    tokenizer: text.Tokenizer, fraction: float, row: Row, generator: np.random.Generator
) -> Mapping[str, np.ndarray]:
    masked_ids, masked = masking.mask_tokens(row.ids, row.mask, tokenizer, fraction, generator)
    return {"masked_ids": masked_ids, "masked_text": masked}


def maker(cfg: Config, tokenizer: text.Tokenizer) -> MakeFields:
    return partial(_make, tokenizer, cfg.losses["mlm"]["mask_fraction"])


NEEDS = Needs(
    passes=("masked",),
    head=lambda cfg, name: MaskedHead(cfg.text.vocab_size, jnp.dtype(cfg.compute_dtype), name=name),
    output=masked_text,
    fields=Fields(shapes, maker),
)
