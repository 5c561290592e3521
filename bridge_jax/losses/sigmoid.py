"""Unimodal image-text contrast by a binary decision on every pair of the global batch (Zhai et al. 2023, "SigLIP").

Use it in place of `itc`. Pairs do not compete, so there is no softmax over the batch, and small batches lose less.
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
    """Return log(1 + exp(-z (scale x cosine + bias))), summed over images, averaged over texts.

    z is 1 for a pair, else -1; every caption of a photo pairs with that photo. `chunk_columns` > 0 limits how many
    columns of the B x B logits are held at once; 0: all columns. Metrics: `accuracy`, the share of texts whose best
    image is their own photo.
    """
    text_BE, ids_B, B = outputs.logit_scale * outputs.unimodal_text, batch.image_ids, len(batch.image_ids)

    def add_chunk(carry: tuple[Array, ...], chunk: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        total, max_B, correct_B = carry
        image_CE, ids_C, valid_C = chunk
        same_BC = ids_B[:, None] == ids_C[None]
        logits_BC = text_BE @ image_CE.T + outputs.own["sigmoid"]
        total += jnp.where(valid_C[None], jax.nn.softplus(jnp.where(same_BC, -logits_BC, logits_BC)), 0.0).sum()
        valid_logits_BC = jax.lax.stop_gradient(jnp.where(valid_C[None], logits_BC, -jnp.inf))
        chunk_correct_B = jnp.take_along_axis(same_BC, valid_logits_BC.argmax(axis=1)[:, None], axis=1)[:, 0]
        chunk_max_B = valid_logits_BC.max(axis=1)
        new_max_B = jnp.maximum(max_B, chunk_max_B)
        return (total, new_max_B, jnp.where(chunk_max_B > max_B, chunk_correct_B, correct_B)), None

    start = jnp.zeros(()), jnp.full(B, -jnp.inf), jnp.zeros(B, bool)
    steps = chunks(outputs.unimodal_image, ids_B, chunk_columns or B)
    (total, _, correct_B), _ = jax.lax.scan(jax.checkpoint(add_chunk), start, steps)
    return Loss(sum=total, count=jnp.float32(B), metrics={"accuracy": correct_B.mean()})
