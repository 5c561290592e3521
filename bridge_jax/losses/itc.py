"""Unimodal image-text contrast: symmetric InfoNCE over the global batch (Eq. 4, its unimodal half)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("unimodal",)


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Contrast the embeddings that retrieval uses. Captions of one photo are positives of each other's photo."""
    scores_BB = outputs.logit_scale * outputs.unimodal_text @ outputs.unimodal_image.T
    return symmetric_info_nce(scores_BB, batch.image_ids)


def symmetric_info_nce(scores_BB: Float[Array, "B B"], image_ids: Int[Array, "B"]) -> Loss:
    """Return cross entropy against a uniform target over the positives, averaged over both directions.

    `scores_BB[i, j]` is the logit of text i with image j. The authors count captions of the same photo as negatives
    (METHOD section 5, point 8).
    """
    same_BB = image_ids[:, None] == image_ids[None, :]
    target_BB = same_BB / same_BB.sum(axis=1, keepdims=True)
    by_text = -(target_BB * jax.nn.log_softmax(scores_BB, axis=1)).sum()
    by_image = -(target_BB * jax.nn.log_softmax(scores_BB, axis=0).T).sum()
    hit = jnp.take_along_axis(same_BB, scores_BB.argmax(axis=1)[:, None], axis=1)
    return Loss(
        sum=(by_text + by_image) / 2,
        count=jnp.asarray(scores_BB.shape[0], jnp.float32),
        metrics={"accuracy": hit.mean()},
    )
