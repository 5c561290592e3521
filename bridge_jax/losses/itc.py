"""Unimodal image-text contrast: symmetric InfoNCE over the global batch (Eq. 4, its unimodal half)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bridge_jax.config.objectives import Needs
from bridge_jax.types import Batch, Loss, Outputs

NEEDS = Needs(passes=("unimodal",), reads="captions")


def loss(outputs: Outputs, batch: Batch, chunk_columns: int) -> Loss:
    """Contrast the embeddings that retrieval uses. Captions of one photo are positives of each other's photo.

    `chunk_columns` > 0 never holds more than so many columns of the B x B scores at once: the same value and gradient,
    one more matrix product in the backward pass. 0: all at once.
    """
    text_BE, image_BE = outputs.logit_scale * outputs.unimodal_text, outputs.unimodal_image
    if not chunk_columns:
        return symmetric_info_nce(text_BE @ image_BE.T, batch.image_ids)
    by_text_B, hit_B = _by_chunks(text_BE, image_BE, batch.image_ids, chunk_columns)
    by_image_B, _ = _by_chunks(image_BE, text_BE, batch.image_ids, chunk_columns)
    return _loss(by_text_B.sum(), by_image_B.sum(), hit_B)


def symmetric_info_nce(scores_BB: Float[Array, "B B"], image_ids: Int[Array, "B"]) -> Loss:
    """Return cross entropy against a uniform target over the positives, averaged over both directions.

    `scores_BB[i, j]` is the logit of text i with image j. The authors count captions of the same photo as negatives
    (docs/method.md 5.9).
    """
    same_BB = image_ids[:, None] == image_ids[None, :]
    target_BB = same_BB / same_BB.sum(axis=1, keepdims=True)
    by_text = -(target_BB * jax.nn.log_softmax(scores_BB, axis=1)).sum()
    by_image = -(target_BB * jax.nn.log_softmax(scores_BB, axis=0).T).sum()
    hit_B = jnp.take_along_axis(same_BB, scores_BB.argmax(axis=1)[:, None], axis=1)
    return _loss(by_text, by_image, hit_B)


def _loss(by_text: Array, by_image: Array, hit_B: Array) -> Loss:
    count = jnp.asarray(hit_B.shape[0], jnp.float32)
    return Loss(sum=(by_text + by_image) / 2, count=count, metrics={"accuracy": hit_B.mean()})


def _by_chunks(
    queries_BE: Float[Array, "B E"], candidates_BE: Float[Array, "B E"], ids_B: Int[Array, "B"], columns: int
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Return each query's loss, log sum exp of its scores minus their mean over its positives, and whether it hit.

    The sum of exponentials is carried over the chunks beside the greatest score so far. Every chunk is computed again
    in the backward pass, so what is kept of it is one number a query.
    """

    def add(carry: tuple, x: tuple) -> tuple[tuple, None]:
        top, total, positive, count, hit = carry
        candidates_CE, ids_C, valid_C = x
        scores_BC = jnp.where(valid_C, queries_BE @ candidates_CE.T, -jnp.inf)
        same_BC = (ids_B[:, None] == ids_C) & valid_C
        best_B = jax.lax.stop_gradient(scores_BC.max(axis=1))
        best_is_same_B = jnp.take_along_axis(same_BC, scores_BC.argmax(axis=1)[:, None], axis=1)[:, 0]
        higher_B = jnp.maximum(top, best_B)
        total = total * jnp.exp(top - higher_B) + jnp.exp(scores_BC - higher_B[:, None]).sum(axis=1)
        positive += jnp.where(same_BC, scores_BC, 0.0).sum(axis=1)
        return (
            higher_B,
            total,
            positive,
            count + same_BC.sum(axis=1),
            jnp.where(best_B > top, best_is_same_B, hit),
        ), None

    zeros = jnp.zeros(len(ids_B))
    start = (zeros - jnp.inf, zeros, zeros, zeros, zeros > 0)
    (top, total, positive, count, hit), _ = jax.lax.scan(
        jax.checkpoint(add), start, chunks(candidates_BE, ids_B, columns)
    )
    return top + jnp.log(total) - positive / count, hit


def chunks(
    candidates_BE: Float[Array, "B E"], ids_B: Int[Array, "B"], columns: int
) -> tuple[Float[Array, "n C E"], Int[Array, "n C"], Bool[Array, "n C"]]:
    """Return the candidates and their ids in chunks of C = `columns`, and which are no filling of the last one."""
    B, E = candidates_BE.shape
    count = -(-B // columns)
    rest = count * columns - B
    return (
        jnp.pad(candidates_BE, ((0, rest), (0, 0))).reshape(count, columns, E),
        jnp.pad(ids_B, (0, rest)).reshape(count, columns),
        (jnp.arange(count * columns) < B).reshape(count, columns),
    )
