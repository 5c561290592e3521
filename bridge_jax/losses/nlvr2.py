"""Judge statements about pictures as true or false (NLVR2, NLVR)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from bridge_jax.config import Config, require
from bridge_jax.config.objectives import Fields, Inputs, Needs, Row
from bridge_jax.data.questions import JUDGEMENTS
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import Classifier, features
from bridge_jax.types import Array, Batch, Fused, Loss, Outputs


def loss(outputs: Outputs, batch: Batch, *, pictures: int) -> Loss:
    """Return the binary cross entropy of the logit that a statement is true of its pictures.

    `pictures` is k, the number of pictures per statement: 2 in NLVR2, 1 in NLVR. The head's input is k times as wide
    as for one picture. Metrics: `accuracy`, the share of statements judged correctly at a logit of zero.
    """
    assert batch.images.shape[1:-3] == ((pictures,) if pictures > 1 else ())
    logit_B, true_B = outputs.own["nlvr2"], batch.extras["statement_true"]
    losses_B = optax.sigmoid_binary_cross_entropy(logit_B, true_B.astype(jnp.float32))
    return Loss(
        sum=losses_B.sum(),
        count=jnp.float32(len(logit_B)),
        metrics={"accuracy": ((logit_B > 0) == true_B).astype(jnp.float32).mean()},
    )


def judge(
    model: BridgeModel, fused: Fused, mask: Bool[Array, "pairs T"], deterministic: bool = True
) -> Float[Array, "B"]:
    """Return the logit that each statement is true of its k pictures.

    `fused` holds every statement with each of its pictures: pair i k + j is statement i with picture j. The features of
    a statement's pairs are concatenated, so the order of its pictures counts.
    """
    pair_features = features(fused, mask)
    statement_features = pair_features.reshape(-1, pictures(model.cfg) * pair_features.shape[-1])
    return model.heads.by_loss["nlvr2"](statement_features, deterministic)[:, 0]


def pictures(cfg: Config) -> int:
    """Return the number of pictures per statement."""
    return cfg.losses["nlvr2"]["pictures"]


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of `statement_true`: whether the statement is true of the row's pictures."""
    del cfg
    return {"statement_true": jax.ShapeDtypeStruct((), np.bool_)}


def _make(row: Row, generator: np.random.Generator) -> Mapping[str, Any]:
    del generator
    return {"statement_true": np.bool_(JUDGEMENTS.index(row.question.answers[0]))}


def output(model: BridgeModel, inputs: Inputs) -> Float[Array, "B"]:
    """Return the logit of every row's statement, from its pairs with each of the row's pictures."""
    assert inputs.fused is not None
    return judge(model, inputs.fused, inputs.fused_mask, inputs.deterministic)


def check(cfg: Config) -> None:
    """Raise ConfigError unless the number of pictures is 1 or 2."""
    require(pictures(cfg) in (1, 2), f"config.losses.nlvr2.pictures is {pictures(cfg)}; a statement is about 1 or 2")


NEEDS = Needs(
    passes=("each_picture",),
    head=lambda cfg, name: Classifier(1, cfg.bridge.shared_width, jnp.dtype(cfg.compute_dtype), name=name),
    output=output,
    fields=Fields(shapes, lambda cfg, tokenizer: _make),
    reads="statements",
    pictures=pictures,
    evaluator="nlvr2",
    check=check,
)
