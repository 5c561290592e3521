"""A stage's optimizer: which parameters train, at which rate each, and which decay."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bridge_jax import rules
from bridge_jax.config import Config, ConfigError, Stage


def trainable_paths(cfg: Config, stage: Stage, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that train in a stage, by its rules and its top K blocks of each tower. Raises ConfigError."""
    key = f"config.stages.{stage.name}.train"
    matched = rules.match((*_top_blocks(cfg, stage), *stage.train), paths, key)
    for path, value in matched.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{key}: {path!r} got {value!r}; expected True or False")
    names = tuple(path for path, trains in matched.items() if trains)
    if not names:
        raise ConfigError(f"{key}: nothing trains; set at least one rule to True")
    return names


def _top_blocks(cfg: Config, stage: Stage) -> tuple[tuple[str, bool], ...]:
    if stage.top_blocks == 0:
        return ()
    if stage.top_blocks > min(cfg.vision.depth, cfg.text.depth):
        raise ConfigError(
            f"config.stages.{stage.name}.top_blocks is {stage.top_blocks}; "
            f"the towers have {cfg.vision.depth} and {cfg.text.depth} blocks"
        )
    vision = range(cfg.vision.depth - stage.top_blocks, cfg.vision.depth)
    text = range(cfg.text.depth - stage.top_blocks, cfg.text.depth)
    return (
        ("vision/(norm|" + "|".join(f"block_{i:02d}" for i in vision) + ")/.*", True),
        ("text/(final_norm|" + "|".join(f"block_{i:02d}" for i in text) + ")/.*", True),
    )


def schedule(stage: Stage) -> optax.Schedule:
    """Return the learning rate as a function of the stage's step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(stage.steps * stage.warmup_fraction)) if stage.warmup_fraction else 0
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else stage.learning_rate, stage.learning_rate, warmup, max(stage.steps, warmup + 1)
    )


def lr_factors(stage: Stage, paths: Iterable[str]) -> Mapping[str, float]:
    """Return path -> the parameter's factor on the learning rate."""
    return rules.match(stage.lr_factors, paths, f"config.stages.{stage.name}.lr_factors")


def decayed(cfg: Config, paths: Iterable[str]) -> Mapping[str, bool]:
    """Return path -> whether weight decay applies to the parameter."""
    return {path: not spared for path, spared in rules.any_of(cfg.no_decay, paths, "config.no_decay").items()}


def optimizer(cfg: Config, stage: Stage, paths: Iterable[str]) -> optax.GradientTransformationExtraArgs:
    """Return the stage's optimizer over a flat dict of its trainable parameters.

    adamw      two moments, float32: twice the memory of the trained parameters.
    adafactor  no first moment, and of a matrix only the sums of its squared gradients over rows and over columns:
               almost no memory (Shazeer and Stern 2018, without relative steps: the rate is the stage's, as AdamW's).

    Gradients are first clipped by their global norm over all trained parameters. `paths` are all parameters. `update`
    takes the step's loss, and keeps it in the state if the config looks for spikes.
    """
    paths = list(paths)
    factors, decay, rate = lr_factors(stage, paths), decayed(cfg, paths), schedule(stage)

    def decays(updates: Any) -> Any:
        return {path: decay[path] for path in updates}

    def by_group(updates: Any, params: Any = None) -> Any:
        del params
        return {path: update * factors[path] for path, update in updates.items()}

    watched = [_watch_losses(cfg.bad_steps.spike_window)] if cfg.bad_steps.spike_sigma else []
    chained = optax.chain(
        optax.clip_by_global_norm(stage.clip_norm),
        _SCALED[stage.optimizer](),
        optax.add_decayed_weights(stage.weight_decay, mask=decays),
        optax.stateless(by_group),
        optax.scale_by_learning_rate(rate),
        *watched,
    )
    return optax.with_extra_args_support(chained)


_SCALED = {
    "adamw": lambda: optax.scale_by_adam(b1=0.9, b2=0.98, eps=1e-8),
    "adafactor": lambda: optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
}


class LossWindow(NamedTuple):
    """The losses of a stage's last applied steps. Part of the optimizer's state, and so of checkpoints."""

    count: jax.Array  # int32 scalar
    window: jax.Array  # float32 [spike_window]; the newest loss replaces the oldest


def _watch_losses(window: int) -> optax.GradientTransformationExtraArgs:
    def init(params: Any) -> LossWindow:
        del params
        return LossWindow(jnp.zeros((), jnp.int32), jnp.zeros(window, jnp.float32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        loss = extra["loss"]
        return updates, LossWindow(state.count + 1, state.window.at[state.count % window].set(loss))

    return optax.GradientTransformationExtraArgs(init, update)


def spike_above(cfg: Config, opt_state: Any) -> jax.Array:
    """Return the loss above which a step is a spike: mean + spike_sigma x deviation of a full window, else infinity."""
    if not cfg.bad_steps.spike_sigma:
        return jnp.array(jnp.inf)
    count, window = opt_state[-1]
    limit = window.mean() + cfg.bad_steps.spike_sigma * window.std()
    return jnp.where(count >= window.size, limit, jnp.inf)
