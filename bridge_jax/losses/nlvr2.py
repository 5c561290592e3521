"""Statements about pictures (NLVR2, NLVR): true or false."""

import jax.numpy as jnp
import optax

from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("statements",)


def loss(outputs: Outputs, batch: Batch, *, pictures: int) -> Loss:
    """Binary cross entropy of the logit that a statement is true of its pictures.

    `pictures` is k, of how many pictures a statement speaks: 2 in NLVR2, 1 in NLVR. The head is k times as wide at its
    entrance. Metrics: `accuracy`, the share of statements that are judged right at a logit of zero.
    """
    assert batch.images.shape[1:-3] == ((pictures,) if pictures > 1 else ())
    logit_B, true_B = outputs.statement_logit, batch.statement_true
    losses_B = optax.sigmoid_binary_cross_entropy(logit_B, true_B.astype(jnp.float32))
    return Loss(
        sum=losses_B.sum(),
        count=jnp.float32(len(logit_B)),
        metrics={"accuracy": ((logit_B > 0) == true_B).astype(jnp.float32).mean()},
    )
