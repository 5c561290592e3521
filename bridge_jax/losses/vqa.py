"""Visual question answering: which of A answers is worth how much."""

import jax.numpy as jnp
import optax

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("answers",)


def loss(outputs: Outputs, batch: Batch, *, answers: int) -> Loss:
    """Binary cross entropy of every answer's logit against its score, summed over the A answers (Teney et al. 2018).

    The target of an answer is what it would score, 0 to 1: ten people were asked, several answers are right, and for
    some questions none is sure. A softmax would make them share one. `answers` is A, the width of the head. Metrics:
    `accuracy`, what the best answer scores.
    """
    logits_BA, scores_BA = outputs.answer_logits, batch.answer_scores
    assert logits_BA.shape[-1] == answers
    losses_BA = optax.sigmoid_binary_cross_entropy(logits_BA, scores_BA)
    given_B1 = logits_BA.argmax(axis=-1)[:, None]
    return Loss(
        sum=losses_BA.sum(),
        count=jnp.float32(len(logits_BA)),
        metrics={"accuracy": jnp.take_along_axis(scores_BA, given_B1, axis=-1).mean()},
    )
