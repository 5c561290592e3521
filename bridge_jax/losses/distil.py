"""Distillation: the bridge's order of the mined candidates teaches the towers (as in RocketQAv2, arXiv 2110.07367)."""

import jax
import jax.numpy as jnp

from bridge_jax.config.objectives import Needs
from bridge_jax.types import Array, Batch, Candidates, Loss, Outputs

NEEDS = Needs(passes=("fused", "mismatched"), reads="captions")


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Return KL(bridge || towers) over the candidates of each query, averaged over both directions.

    Both distributions are a softmax over a query's candidates, the true partner among them: of the match logit without
    gradient, and of logit scale x unimodal cosine. So this loss moves the towers and never the bridge. A query without
    a wrong candidate does not count. Metrics: `agreement`, the share of wrong candidates that both scores put on the
    same side of the true pair.
    """
    del batch
    both = [_divergence(candidates, outputs.logit_scale) for candidates in (outputs.by_text, outputs.by_image)]
    return Loss(
        sum=sum(each.sum for each in both) / 2,
        count=sum(each.count for each in both) / 2,
        metrics={"agreement": sum(each.metrics["agreement"] for each in both) / 2},
    )


def _divergence(candidates: Candidates, scale: Array) -> Loss:
    valid_BC = candidates.valid
    teacher_BC = jax.lax.stop_gradient(candidates.itm_logit)
    student_BC = scale * candidates.unimodal
    # Finite, because the gradient of 0 x -inf is NaN; the probability of what is not valid is zero all the same.
    teacher_BC, student_BC = (jnp.where(valid_BC, logits, -1e9) for logits in (teacher_BC, student_BC))
    log_p_BC, log_q_BC = jax.nn.log_softmax(teacher_BC, axis=1), jax.nn.log_softmax(student_BC, axis=1)
    losses_B = (jnp.exp(log_p_BC) * jnp.where(valid_BC, log_p_BC - log_q_BC, 0.0)).sum(axis=1)
    wrong_BC = valid_BC[:, 1:]
    counts_B = wrong_BC.any(axis=1)
    same_BC = (teacher_BC[:, :1] > teacher_BC[:, 1:]) == (student_BC[:, :1] > student_BC[:, 1:])
    return Loss(
        sum=(losses_B * counts_B).sum(),
        count=counts_B.sum().astype(jnp.float32),
        metrics={"agreement": (same_BC & wrong_BC).sum() / jnp.maximum(wrong_BC.sum(), 1)},
    )
