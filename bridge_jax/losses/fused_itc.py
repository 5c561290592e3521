"""Fused image-text contrast: InfoNCE on fused pairs (the fused half of Eq. 4)."""

import jax
import jax.numpy as jnp

from bridge_jax.config import Config, require, require_one_of
from bridge_jax.config.objectives import Needs, stages_with
from bridge_jax.losses.itc import symmetric_info_nce
from bridge_jax.types import Array, Batch, Candidates, Loss, Outputs

FORMS = ("joint", "paper")


def loss(outputs: Outputs, batch: Batch, form: str) -> Loss:
    """Contrast fused embeddings. `form` selects the scored pairs. Metrics: `accuracy`.

    joint: every query against its true and its mined partners, each *jointly fused* with it. The default.
    paper: p_t of the true pair i against p_v of the true pair j. LEAKING: only true pairs are ever fused, so a pair
        can mark both its sides privately and win without looking (docs/method.md 5.1). For study only.
    """
    if form == "paper":
        return symmetric_info_nce(outputs.logit_scale * outputs.fused.text @ outputs.fused.image.T, batch.image_ids)
    by_text, by_image = (_info_nce(c, outputs.logit_scale) for c in (outputs.by_text, outputs.by_image))
    return Loss(
        sum=(by_text.sum + by_image.sum) / 2,
        count=(by_text.count + by_image.count) / 2,
        metrics={"accuracy": (by_text.metrics["accuracy"] + by_image.metrics["accuracy"]) / 2},
    )


def _info_nce(candidates: Candidates, scale: Array) -> Loss:
    """Return the InfoNCE loss of column 0 against the valid other columns; a query without any does not count."""
    logits_BC = jnp.where(candidates.valid, scale * candidates.similarity, -jnp.inf)
    counts_B = candidates.valid[:, 1:].any(axis=1)
    losses_B = -jax.nn.log_softmax(logits_BC, axis=1)[:, 0]
    correct_B = logits_BC[:, 0] > logits_BC[:, 1:].max(axis=1)
    count = counts_B.sum().astype(jnp.float32)
    return Loss(
        sum=(losses_B * counts_B).sum(),
        count=count,
        metrics={"accuracy": (correct_B & counts_B).sum() / jnp.maximum(count, 1)},
    )


def check(cfg: Config) -> None:
    """Raise ConfigError for an unknown form, and if "paper" would compare less than the whole batch."""
    form = cfg.losses["fused_itc"]["form"]
    require_one_of("config.losses.fused_itc.form", form, FORMS)
    for stage in stages_with(cfg, "fused_itc"):
        require(
            form == "joint" or stage.microbatches == 1,
            f"config.stages.{stage.name}.microbatches is {stage.microbatches}, but config.losses.fused_itc.form "
            "'paper' compares fused embeddings of the whole batch: set microbatches=1, or form='joint'",
        )


NEEDS = Needs(passes=("fused", "mismatched"), reads="captions", check=check)
