"""Visual question answering by the decoder: every word of an answer from those before it, the picture and the question.

The classifier's form is `vqa`. What people answered is one answer a row, drawn anew at every step, each as likely as
it was given (Li et al. 2021, ALBEF, weighs them alike): the likelihoods of the answers then tend to those shares.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bridge_jax.config import Config
from bridge_jax.config.objectives import Fields, Inputs, MakeFields, Needs, Row
from bridge_jax.data import answers, questions
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Batch, Loss, Outputs


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Minus the log-likelihood of the row's answer, its end included, averaged over rows (teacher forcing).

    Summed over the words of an answer, as the evaluator ranks answers, so without label smoothing. A row that has no
    answer (`answer_mask` False everywhere) counts nothing. Metrics: `accuracy`, the share of answers of which the
    decoder would have chosen every word.
    """
    logits_BTV = outputs.own["vqa_generative"]  # of the words 1 to T-1, each from those before it
    words_BT, said_BT = batch.extras["answer_ids"][:, 1:], batch.extras["answer_mask"][:, 1:]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, words_BT)
    hit_BT = (logits_BTV.argmax(axis=-1) == words_BT) | ~said_BT
    answered_B = said_BT.any(axis=-1)
    count = answered_B.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * said_BT).sum(),
        count=count,
        metrics={"accuracy": (hit_BT.all(axis=-1) & answered_B).sum() / jnp.maximum(count, 1)},
    )


def answer_words(model: BridgeModel, inputs: Inputs) -> Float[Array, "B T-1 V"]:
    """Let the decoder read what picture and question became when they met."""
    assert inputs.fused is not None
    memory = model.decoder.read(inputs.fused.image_states, (inputs.fused.text_states, inputs.lower.text_mask))
    return model.decoder(inputs.batch.extras["answer_ids"][:, :-1], memory, deterministic=inputs.deterministic)


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """`answer_ids`, an answer that people gave, and `answer_mask`, False on padding and where none is known."""
    T = cfg.text.length
    return {
        "answer_ids": jax.ShapeDtypeStruct((T,), np.int32),
        "answer_mask": jax.ShapeDtypeStruct((T,), np.bool_),
    }


def _make(
    known: Mapping[str, int], words: tuple[np.ndarray, np.ndarray], row: Row, generator: np.random.Generator
) -> Mapping[str, np.ndarray]:
    ids, mask = words
    drawn = answers.draw(row.question.answers, known, generator)
    if drawn is None:
        return {"answer_ids": ids[0], "answer_mask": np.zeros_like(mask[0])}  # none of these words is to be written
    return {"answer_ids": ids[drawn], "answer_mask": mask[drawn]}


def maker(cfg: Config, tokenizer: Any) -> MakeFields:
    del tokenizer
    known = {answer: index for index, answer in enumerate(questions.load_answers(cfg))}
    return partial(_make, known, questions.load_answer_words(cfg))


NEEDS = Needs(
    passes=("fused",),
    output=answer_words,
    fields=Fields(shapes, maker),
    reads="questions",
    evaluator="vqa",
    decoder=("fused",),
)
