"""Cycle consistency of the two attention directions (Eq. 5): from a token to the other side and back."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Config, require
from bridge_jax.config.objectives import Needs, stages_with
from bridge_jax.types import Array, Batch, Loss, Outputs

EPS = 1e-9


def loss(outputs: Outputs, batch: Batch) -> Loss:
    """Return -(mean log diag(P_vt P_tv) + mean log diag(P_tv P_vt)) / 2, averaged over layers and pairs.

    Both diagonals are sums of M = P_tv * P_vt^T: its rows give diag(P_tv P_vt), its columns diag(P_vt P_tv), so no
    product of size P x P is formed. Padding is left out, and the probabilities are those before dropout.

    The loss has a floor of |log(P/T)| / 2 (0.94 for 197 x 30), because P return probabilities that come from T
    distributions cannot average above T/P. Metrics: `over_floor`, the excess over it.
    """
    per_layer = [
        pair_losses(tv, vt, batch.text_mask)
        for tv, vt in zip(outputs.fused.text_over_image, outputs.fused.image_over_text, strict=True)
    ]
    losses_B = jnp.stack(per_layer).mean(axis=0)
    floor_B = floor(batch.text_mask.sum(axis=1), outputs.fused.image_states.shape[1])
    return Loss(
        sum=losses_B.sum(),
        count=jnp.asarray(losses_B.shape[0], jnp.float32),
        metrics={"over_floor": (losses_B - floor_B).mean()},
    )


def pair_losses(
    text_over_image: Float[Array, "B T P"], image_over_text: Float[Array, "B P T"], mask_BT: Bool[Array, "B T"]
) -> Float[Array, "B"]:
    """Return the loss of one layer for each pair."""
    round_trip_BTP = text_over_image * image_over_text.swapaxes(1, 2) * mask_BT[:, :, None]
    log_text_BT = jnp.log(round_trip_BTP.sum(axis=2) + EPS) * mask_BT
    log_image_BP = jnp.log(round_trip_BTP.sum(axis=1) + EPS)
    mean_text_B = log_text_BT.sum(axis=1) / jnp.maximum(mask_BT.sum(axis=1), 1)
    return -(mean_text_B + log_image_BP.mean(axis=1)) / 2


def floor(text_tokens: Int[Array, "B"], image_tokens: int) -> Float[Array, "B"]:
    """Return the smallest possible loss, by Jensen's inequality: half of |log(P/T)|."""
    return jnp.abs(jnp.log(image_tokens / jnp.maximum(text_tokens, 1))) / 2


def check(cfg: Config) -> None:
    """Raise ConfigError if a stage uses the loss and the bridge has no attention."""
    for stage in stages_with(cfg, "cycle"):
        require(
            cfg.bridge.design not in ("none", "pooled"),
            f"config.stages.{stage.name}.losses: cycle needs attention, which design {cfg.bridge.design!r} does not "
            "have: drop it",
        )


NEEDS = Needs(passes=("fused",), check=check)
