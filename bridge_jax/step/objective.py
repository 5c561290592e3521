"""The loss that a stage minimises and its gradient: of the whole batch at once, or in parts (`step.microbatches`)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from bridge_jax import paths, rng
from bridge_jax.config import Config, ConfigError, Stage, objectives
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.placement import is_lower
from bridge_jax.step import forward, sharding, weighting
from bridge_jax.step.bridge_metrics import bridge_metrics
from bridge_jax.step.microbatches import Gradients, in_parts
from bridge_jax.types import Array, Batch, Outputs, Params


def gradients(cfg: Config, stage: Stage, trainable: tuple[str, ...], mesh: Mesh) -> Gradients:
    """Return the function that computes a stage's loss and gradients. Raises ConfigError."""
    _check(cfg, stage, trainable)
    run = _passes(cfg, stage, trainable, mesh)

    def at_once(live: paths.Flat, frozen: paths.Flat, batch: Batch, step: Array) -> Any:
        params = paths.unflatten({**frozen, **live})
        outputs = run(params, batch, step, None)
        total, metrics = weighting.combine(cfg, stage.losses, params, outputs, batch)
        return total, (metrics | bridge_metrics(params, outputs, batch), outputs)

    return jax.value_and_grad(at_once, has_aux=True) if stage.microbatches == 1 else in_parts(cfg, stage, run, mesh)


def _check(cfg: Config, stage: Stage, trainable: tuple[str, ...]) -> None:
    key = f"config.stages.{stage.name}"
    lower = [path for path in trainable if is_lower(path, cfg)]
    if stage.cached_crops and lower:
        raise ConfigError(
            f"{key}.cached_crops is {stage.cached_crops}, but the stage trains {lower[0]!r}, below the "
            "first bridged layer: freeze it or set cached_crops=0"
        )
    if stage.microbatches > 1 and objectives.mines(stage) and cfg.mining.source == "batch" and not cfg.mining.group:
        raise ConfigError(
            f"{key}.microbatches is {stage.microbatches}, but partners are mined among all rows: set "
            "config.mining.group to a divisor of the rows of a microbatch"
        )


def _passes(cfg: Config, stage: Stage, trainable: tuple[str, ...], mesh: Mesh) -> Callable[..., Outputs]:
    """Return the function that runs the stage's passes: (params, batch, step, part or None) -> Outputs."""
    model = BridgeModel(cfg)
    how = forward.Forward(
        passes=forward.passes_of(stage.losses),
        lower_frozen=not any(is_lower(path, cfg) for path in trainable),
        spread=partial(sharding.spread_rows, mesh=mesh),
    )

    def run(params: Params, batch: Batch, step: Array, part: Array | None) -> Outputs:
        keys = (rng.key(cfg.seed, stream, step) for stream in ("dropout", "mining"))
        dropout, mining = (key if part is None else jax.random.fold_in(key, part) for key in keys)
        with sharding.known_to_kernels(mesh):
            return forward.outputs(model, params, batch, how, forward.Keys(dropout, mining))

    return run
