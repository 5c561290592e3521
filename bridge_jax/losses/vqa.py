"""Visual question answering by classification: score each of A answers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from bridge_jax.config import Config
from bridge_jax.config.objectives import Fields, Inputs, MakeFields, Needs, Row
from bridge_jax.data import questions
from bridge_jax.data.answers import scores
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import Classifier, pooled
from bridge_jax.types import Array, Batch, Fused, Loss, Outputs


def loss(outputs: Outputs, batch: Batch, *, answers: int) -> Loss:
    """Return the binary cross entropy of every logit against its answer's score, summed over A (Teney et al. 2018).

    The target of an answer is its score, 0 to 1: ten people answered each question, so several answers may be right and
    none certain. A softmax would make the answers share a total of one. `answers` is A, the width of the head. Metrics:
    `accuracy`, the mean score of the answers with the highest logit.
    """
    logits_BA, scores_BA = outputs.own["vqa"], batch.extras["answer_scores"]
    assert logits_BA.shape[-1] == answers
    losses_BA = optax.sigmoid_binary_cross_entropy(logits_BA, scores_BA)
    predicted_B1 = logits_BA.argmax(axis=-1)[:, None]
    return Loss(
        sum=losses_BA.sum(),
        count=jnp.float32(len(logits_BA)),
        metrics={"accuracy": jnp.take_along_axis(scores_BA, predicted_B1, axis=-1).mean()},
    )


def score(
    model: BridgeModel, fused: Fused, mask: Bool[Array, "B T"], deterministic: bool = True
) -> Float[Array, "B A"]:
    """Return the logit of every answer to each pair's question, from the mean states of both sides (`heads.pooled`)."""
    return model.heads.by_loss["vqa"](pooled(fused, mask), deterministic)


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of `answer_scores`: the score of each answer to the question, 0 to 1."""
    return {"answer_scores": jax.ShapeDtypeStruct((cfg.losses["vqa"]["answers"],), np.float32)}


def _make(known: Mapping[str, int], row: Row, generator: np.random.Generator) -> Mapping[str, np.ndarray]:
    del generator
    return {"answer_scores": scores(row.question.answers, known)}


def maker(cfg: Config, tokenizer: Any) -> MakeFields:
    del tokenizer
    return partial(_make, {answer: output for output, answer in enumerate(questions.load_answers(cfg))})


def output(model: BridgeModel, inputs: Inputs) -> Float[Array, "B A"]:
    """Return the logits of all answers to the questions of the true pairs."""
    assert inputs.fused is not None
    return score(model, inputs.fused, inputs.fused_mask, inputs.deterministic)


NEEDS = Needs(
    passes=("fused",),
    head=lambda cfg, name: Classifier(
        cfg.losses["vqa"]["answers"], cfg.bridge.shared_width, jnp.dtype(cfg.compute_dtype), name=name
    ),
    output=output,
    fields=Fields(shapes, maker),
    reads="questions",
    evaluator="vqa",
)
