"""The losses of a stage, their weights and their weighted sum (docs/method.md 3.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bridge_jax.config import Config, objectives
from bridge_jax.types import Array, Batch, Loss, Outputs, Params


def losses_of(cfg: Config, names: tuple[str, ...], outputs: Outputs, batch: Batch) -> dict[str, Loss]:
    """Return name -> loss, for every loss of `names`."""
    return {name: objectives.bind(name, cfg.losses[name])(outputs, batch) for name in names}


def combine(
    cfg: Config, names: tuple[str, ...], params: Params, outputs: Outputs, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of the stage's losses, and every metric as `<loss>/<name>`."""
    losses = losses_of(cfg, names, outputs, batch)
    total, metrics = weigh(cfg, params, {name: loss.mean for name, loss in losses.items()})
    return total, metrics | metrics_of(losses)


def weigh(cfg: Config, params: Params, means: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of a stage's loss means, and the means and weights as metrics (see `weights_of`)."""
    weights, total, metrics = weights_of(cfg, tuple(means), params), jnp.zeros(()), {}
    for name, mean in means.items():
        if cfg.loss_weighting == "learnable":
            total += params["loss_weights"][name]
        total += weights[name] * mean
        metrics |= {f"{name}/loss": mean, f"{name}/weight": jnp.asarray(weights[name])}
    return total, metrics


def weights_of(cfg: Config, names: tuple[str, ...], params: Params) -> dict[str, Any]:
    """Return the weight of every loss of a stage.

    fixed      w_i
    bounded    the w_i, redistributed by softmax(log w_i + tanh(a_i)): their sum stays, and no ratio of two weights
               can change by more than a factor e^2. The paper's alpha has no such bound, and runs away
               (docs/method.md 5.8).
    learnable  exp(-a_i) w_i, with a_i added to the loss (Kendall et al. 2018).
    """
    weights: dict[str, Any] = {name: float(cfg.losses[name]["weight"]) for name in names}
    if cfg.loss_weighting == "bounded":
        logits = jnp.stack([jnp.log(weights[n]) + jnp.tanh(params["loss_weights"][n]) for n in names])
        shared = sum(weights.values()) * jax.nn.softmax(logits)
        weights = {name: shared[i] for i, name in enumerate(names)}
    if cfg.loss_weighting == "learnable":
        weights = {name: weight * jnp.exp(-params["loss_weights"][name]) for name, weight in weights.items()}
    return weights


def metrics_of(losses: Mapping[str, Loss]) -> dict[str, Array]:
    """Return every metric of the losses as `<loss>/<name>`."""
    return {f"{name}/{key}": value for name, loss in losses.items() for key, value in loss.metrics.items()}
