"""Visual question answering by the decoder: predict an answer word by word from the picture and the question.

`vqa` is the loss of a classifier. Here each row gets one of people's answers, drawn anew at every step with a
probability proportional to how many people gave it (Li et al. 2021, ALBEF, weighs them the same way). The answers'
likelihoods then tend to those shares.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from bridge_jax.config import Config
from bridge_jax.config.objectives import Fields, Inputs, MakeFields, Needs, Row
from bridge_jax.data import answers, questions
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Batch, Loss, Outputs


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Return the negative log-likelihood of the row's answer, its end included, averaged over rows (teacher forcing).

    It is the sum over the words of an answer, by which the evaluator ranks answers, so there is no label smoothing. A
    row without an answer (`answer_mask` False everywhere) does not count. Metrics: `accuracy`, the share of answers
    whose every word gets the decoder's highest logit.
    """
    logits_BTV = outputs.own["vqa_generative"]  # of words 1 to T-1
    words_BT, mask_BT = batch.extras["answer_ids"][:, 1:], batch.extras["answer_mask"][:, 1:]
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, words_BT)
    correct_BT = (logits_BTV.argmax(axis=-1) == words_BT) | ~mask_BT
    answered_B = mask_BT.any(axis=-1)
    count = answered_B.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_BT * mask_BT).sum(),
        count=count,
        metrics={"accuracy": (correct_BT.all(axis=-1) & answered_B).sum() / jnp.maximum(count, 1)},
    )


def answer_words(model: BridgeModel, inputs: Inputs) -> Float[Array, "B t V"]:
    """Return the logits of the answer's t = T - 1 words after the first, from the fused states and the words before."""
    assert inputs.fused is not None
    memory = model.decoder.read(inputs.fused.image_states, (inputs.fused.text_states, inputs.lower.text_mask))
    return model.decoder(inputs.batch.extras["answer_ids"][:, :-1], memory, deterministic=inputs.deterministic)


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of `answer_ids`, one of people's answers, and of `answer_mask`.

    `answer_mask` is False on padding, and everywhere if no answer is known.
    """
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
        return {"answer_ids": ids[0], "answer_mask": np.zeros_like(mask[0])}  # no word is a target
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
