"""Visual question answering by the decoder: every word of an answer from those before it, the picture and the question.

The classifier's form is `vqa`. What people answered is one answer a row, drawn anew at every step, each as likely as
it was given (Li et al. 2021, ALBEF, weighs them alike): the likelihoods of the answers then tend to those shares.
"""

import jax.numpy as jnp
import optax

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("answer_words",)


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Minus the log-likelihood of the row's answer, its end included, averaged over rows (teacher forcing).

    Summed over the words of an answer, as the evaluator ranks answers, so without label smoothing. A row that has no
    answer (`answer_mask` False everywhere) counts nothing. Metrics: `accuracy`, the share of answers of which the
    decoder would have chosen every word.
    """
    logits_BTV, words_BT, said_BT = outputs.answer_word_logits, batch.answer_ids[:, 1:], batch.answer_mask[:, 1:]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, words_BT)
    hit_BT = (logits_BTV.argmax(axis=-1) == words_BT) | ~said_BT
    answered_B = said_BT.any(axis=-1)
    count = answered_B.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * said_BT).sum(),
        count=count,
        metrics={"accuracy": (hit_BT.all(axis=-1) & answered_B).sum() / jnp.maximum(count, 1)},
    )
