"""Unimodal image-text contrast by a binary decision on every pair of the global batch (Zhai et al. 2023, "SigLIP").

In place of `itc`. No pair competes with another, so there is no softmax over the batch, and small batches lose less.
"""

import jax
import jax.numpy as jnp

from bridge_jax.config.objectives import Needs
from bridge_jax.losses.itc import chunks
from bridge_jax.models.heads import LogitBias
from bridge_jax.types import Array, Batch, Loss, Outputs

NEEDS = Needs(
    passes=("unimodal",),
    head=lambda cfg, name: LogitBias(name=name),
    output=lambda model, inputs: model.heads.by_loss["sigmoid"](),
    reads="captions",
)


def loss(outputs: Outputs, batch: Batch, chunk_columns: int) -> Loss:
    """Sum over images, mean over texts, of log(1 + exp(-z (scale x cosine + bias))), z = 1 for a pair, else -1.

    Captions of one photo are pairs of each other's photo. `chunk_columns` > 0 never holds more than so many columns of
    the B x B scores at once; 0: all. Metrics: `accuracy`, how often a text's best image is its own.
    """
    text_BE, ids_B, B = outputs.logit_scale * outputs.unimodal_text, batch.image_ids, len(batch.image_ids)

    def add(carry: tuple[Array, ...], x: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        total, top_B, hit_B = carry
        image_CE, ids_C, valid_C = x
        same_BC = ids_B[:, None] == ids_C
        logits_BC = text_BE @ image_CE.T + outputs.own["sigmoid"]
        total += jnp.where(valid_C, jax.nn.softplus(jnp.where(same_BC, -logits_BC, logits_BC)), 0.0).sum()
        ranked_BC = jax.lax.stop_gradient(jnp.where(valid_C, logits_BC, -jnp.inf))
        best_is_same_B = jnp.take_along_axis(same_BC, ranked_BC.argmax(axis=1)[:, None], axis=1)[:, 0]
        best_B = ranked_BC.max(axis=1)
        return (total, jnp.maximum(top_B, best_B), jnp.where(best_B > top_B, best_is_same_B, hit_B)), None

    start = jnp.zeros(()), jnp.full(B, -jnp.inf), jnp.zeros(B, bool)
    xs = chunks(outputs.unimodal_image, ids_B, chunk_columns or B)
    (total, _, hit_B), _ = jax.lax.scan(jax.checkpoint(add), start, xs)
    return Loss(sum=total, count=jnp.float32(B), metrics={"accuracy": hit_B.mean()})
