"""Visual entailment (SNLI-VE): does a picture entail a statement, contradict it, or neither?"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from bridge_jax.config import Config
from bridge_jax.config.objectives import Fields, Inputs, Needs, Row
from bridge_jax.data.datasets.snli_ve import LABELS
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import Classifier, features
from bridge_jax.types import Array, Batch, Fused, Loss, Outputs


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Return the cross entropy of the three labels, one of which is correct. Metrics: `accuracy`."""
    logits_BX, label_B = outputs.own["snli_ve"], batch.extras["entailment_label"]
    return Loss(
        sum=optax.softmax_cross_entropy_with_integer_labels(logits_BX, label_B).sum(),
        count=jnp.float32(len(logits_BX)),
        metrics={"accuracy": (logits_BX.argmax(axis=-1) == label_B).astype(jnp.float32).mean()},
    )


def judge(
    model: BridgeModel, fused: Fused, mask: Bool[Array, "B T"], deterministic: bool = True
) -> Float[Array, "B X"]:
    """Return the logits of the labels, from the same features of a pair as nlvr2 (`heads.features`)."""
    return model.heads.by_loss["snli_ve"](features(fused, mask), deterministic)


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of `entailment_label`, the index of the correct label in LABELS."""
    del cfg
    return {"entailment_label": jax.ShapeDtypeStruct((), np.int32)}


def _make(row: Row, generator: np.random.Generator) -> Mapping[str, Any]:
    del generator
    return {"entailment_label": np.int32(LABELS.index(row.question.answers[0]))}


def output(model: BridgeModel, inputs: Inputs) -> Float[Array, "B X"]:
    """Return the logits of the labels for the true pairs."""
    assert inputs.fused is not None
    return judge(model, inputs.fused, inputs.fused_mask, inputs.deterministic)


NEEDS = Needs(
    passes=("fused",),
    head=lambda cfg, name: Classifier(len(LABELS), cfg.bridge.shared_width, jnp.dtype(cfg.compute_dtype), name=name),
    output=output,
    fields=Fields(shapes, lambda cfg, tokenizer: _make),
    reads="statements",
    evaluator="snli_ve",
)
