"""Image-text matching on truly fused pairs: is this the picture of this text?"""

import jax.numpy as jnp
import optax

from bridge_jax.config.objectives import Needs
from bridge_jax.types import Batch, Loss, Outputs

NEEDS = Needs(passes=("fused", "mismatched"), reads="captions")


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Return the binary cross entropy of the match logit; all true pairs together weigh as much as all mined pairs.

    The paper's negatives swap vectors that were already fused with their own partner; a head trained on them rejects
    no wrong image that is really fused (docs/method.md 5.2). Ours are fused with the query itself. Metrics:
    `two_way_accuracy`, the share of mined pairs whose logit is below that of the query's true pair.
    """
    del batch
    total, count, correct, wrong = 0.0, 0.0, 0.0, 0.0
    for candidates in (outputs.by_text, outputs.by_image):
        logits_BC, valid_BC = candidates.itm_logit, candidates.valid
        labels_BC = jnp.zeros_like(logits_BC).at[:, 0].set(1.0)
        weights_BC = jnp.where(labels_BC == 1, valid_BC[:, 1:].sum(axis=1, keepdims=True), 1.0) * valid_BC
        losses_BC = optax.sigmoid_binary_cross_entropy(logits_BC, labels_BC)
        total += (losses_BC * weights_BC).sum()
        count += weights_BC.sum()
        correct += ((logits_BC[:, :1] > logits_BC[:, 1:]) * valid_BC[:, 1:]).sum()
        wrong += valid_BC[:, 1:].sum()
    return Loss(sum=total, count=count, metrics={"two_way_accuracy": correct / jnp.maximum(wrong, 1)})
