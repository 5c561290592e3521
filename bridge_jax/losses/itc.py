"""Unimodal image-text contrast: symmetric InfoNCE over the global batch (the unimodal half of Eq. 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config.objectives import Needs
from bridge_jax.types import Array, Batch, Loss, Outputs

NEEDS = Needs(passes=("unimodal",), reads="captions", wrong_captions=True)


def loss(outputs: Outputs, batch: Batch, chunk_columns: int) -> Loss:
    """Contrast the unimodal embeddings, which retrieval uses. Every caption of a photo is a positive of that photo.

    `chunk_columns` > 0 limits how many columns of the B x B logits are held at once; value and gradient stay the same,
    at the cost of one more matrix product in the backward pass. 0: all columns. An image is contrasted with its own
    wrong captions too, where rows bring some (docs/method.md 3.1). Metrics: `accuracy`, the share of texts whose best
    image is their own photo; `wrong_accuracy`, the share of wrong captions that score below their row's text.
    """
    text_BE, image_BE = outputs.logit_scale * outputs.unimodal_text, outputs.unimodal_image
    if chunk_columns:
        text_losses_B, _, correct_B = _chunked_losses(text_BE, image_BE, batch.image_ids, chunk_columns)
        image_losses_B, images_B, _ = _chunked_losses(image_BE, text_BE, batch.image_ids, chunk_columns)
        contrast = _mean_loss(text_losses_B.sum(), image_losses_B.sum(), correct_B)
    else:
        logits_BB = text_BE @ image_BE.T
        contrast = symmetric_info_nce(logits_BB, batch.image_ids)
        images_B = jax.nn.logsumexp(logits_BB, axis=0)
    if outputs.unimodal_wrong is None:
        return contrast
    wrong_Bw = outputs.logit_scale * jnp.einsum("BwE,BE->Bw", outputs.unimodal_wrong, image_BE)
    return _with_wrong(contrast, images_B, wrong_Bw, (text_BE * image_BE).sum(axis=1), batch.wrong_mask.any(axis=2))


def _with_wrong(
    contrast: Loss,
    images_B: Float[Array, "B"],
    wrong_Bw: Float[Array, "B w"],
    true_B: Float[Array, "B"],
    valid_Bw: Bool[Array, "B w"],
) -> Loss:
    """Add the logits of wrong captions to those among which an image finds its text.

    `images_B` is the log-sum-exp of the others: log(exp(a) + exp(b)) replaces a.
    """
    added_B = jax.nn.logsumexp(jnp.where(valid_Bw, wrong_Bw, -1e9), axis=1)  # finite, so that its gradient is too
    more = (jnp.logaddexp(images_B, added_B) - images_B).sum() / 2
    below = ((wrong_Bw < true_B[:, None]) & valid_Bw).sum() / jnp.maximum(valid_Bw.sum(), 1)
    return Loss(contrast.sum + more, contrast.count, {**contrast.metrics, "wrong_accuracy": below})


def symmetric_info_nce(logits_BB: Float[Array, "B B"], image_ids: Int[Array, "B"]) -> Loss:
    """Return the cross entropy against a target that is uniform over the positives, averaged over both directions.

    `logits_BB[i, j]` is the logit of text i with image j. The authors count captions of the same photo as negatives
    (docs/method.md 5.9).
    """
    same_BB = image_ids[:, None] == image_ids[None, :]
    target_BB = same_BB / same_BB.sum(axis=1, keepdims=True)
    text_loss = -(target_BB * jax.nn.log_softmax(logits_BB, axis=1)).sum()
    image_loss = -(target_BB * jax.nn.log_softmax(logits_BB, axis=0).T).sum()
    correct_B = jnp.take_along_axis(same_BB, logits_BB.argmax(axis=1)[:, None], axis=1)
    return _mean_loss(text_loss, image_loss, correct_B)


def _mean_loss(text_loss: Array, image_loss: Array, correct_B: Array) -> Loss:
    count = jnp.asarray(correct_B.shape[0], jnp.float32)
    return Loss(sum=(text_loss + image_loss) / 2, count=count, metrics={"accuracy": correct_B.mean()})


def _chunked_losses(
    queries_BE: Float[Array, "B E"], candidates_BE: Float[Array, "B E"], ids_B: Int[Array, "B"], columns: int
) -> tuple[Float[Array, "B"], Float[Array, "B"], Bool[Array, "B"]]:
    """Return each query's loss, the log-sum-exp of its logits, and whether its best candidate is right.

    The loss is the log-sum-exp minus the mean of its positives' logits.

    A scan over chunks carries the running maximum of the logits and the sum of exponentials relative to it. The
    backward pass recomputes each chunk, so only the carry, a few numbers per query, is stored.
    """

    def add_chunk(carry: tuple, chunk: tuple) -> tuple[tuple, None]:
        max_B, exp_sum_B, positive_sum_B, positives_B, correct_B = carry
        candidates_CE, ids_C, valid_C = chunk
        logits_BC = jnp.where(valid_C[None], queries_BE @ candidates_CE.T, -jnp.inf)
        same_BC = (ids_B[:, None] == ids_C[None]) & valid_C[None]
        chunk_max_B = jax.lax.stop_gradient(logits_BC.max(axis=1))
        chunk_correct_B = jnp.take_along_axis(same_BC, logits_BC.argmax(axis=1)[:, None], axis=1)[:, 0]
        new_max_B = jnp.maximum(max_B, chunk_max_B)
        exp_sum_B = exp_sum_B * jnp.exp(max_B - new_max_B) + jnp.exp(logits_BC - new_max_B[:, None]).sum(axis=1)
        positive_sum_B += jnp.where(same_BC, logits_BC, 0.0).sum(axis=1)
        positives_B = positives_B + same_BC.sum(axis=1)
        correct_B = jnp.where(chunk_max_B > max_B, chunk_correct_B, correct_B)
        return (new_max_B, exp_sum_B, positive_sum_B, positives_B, correct_B), None

    zeros = jnp.zeros(len(ids_B))
    start, steps = (zeros - jnp.inf, zeros, zeros, zeros, zeros > 0), chunks(candidates_BE, ids_B, columns)
    (max_B, exp_sum_B, positive_sum_B, positives_B, correct_B), _ = jax.lax.scan(
        jax.checkpoint(add_chunk), start, steps
    )
    whole_B = max_B + jnp.log(exp_sum_B)
    return whole_B - positive_sum_B / positives_B, whole_B, correct_B


def chunks(
    candidates_BE: Float[Array, "B E"], ids_B: Int[Array, "B"], columns: int
) -> tuple[Float[Array, "n C E"], Int[Array, "n C"], Bool[Array, "n C"]]:
    """Split candidates and their ids into n chunks of C = `columns`; the mask is False on the last chunk's padding."""
    B, E = candidates_BE.shape
    n = -(-B // columns)
    padding = n * columns - B
    return (
        jnp.pad(candidates_BE, ((0, padding), (0, 0))).reshape(n, columns, E),
        jnp.pad(ids_B, (0, padding)).reshape(n, columns),
        (jnp.arange(n * columns) < B).reshape(n, columns),
    )
