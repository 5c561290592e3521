"""A stage's optimizer: which parameters train, how fast each group goes, what decays.

Parameters travel flat here, path -> array, so that gradients and optimizer state exist for the trainable ones alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from bridge_jax import losses, rng, rules
from bridge_jax.config import Config, ConfigError, Stage
from bridge_jax.types import Params

Flat = dict[str, Any]


def flatten(params: Params) -> Flat:
    """Return path -> array."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")


def split(params: Params, trainable: Iterable[str]) -> tuple[Flat, Flat]:
    """Return the trainable and the frozen parameters, flat."""
    flat, names = flatten(params), set(trainable)
    return {k: v for k, v in flat.items() if k in names}, {k: v for k, v in flat.items() if k not in names}


def trainable_paths(cfg: Config, stage_name: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the parameters that train in a stage: its rules, and the top K blocks of each tower."""
    stage = cfg.stages[stage_name]
    found = rules.match((*_top_blocks(cfg, stage_name), *stage.train), paths, f"config.stages.{stage_name}.train")
    for path, value in found.items():
        if not isinstance(value, bool):
            raise ConfigError(f"config.stages.{stage_name}.train: {path!r} got {value!r}; expected True or False")
    names = tuple(path for path, trains in found.items() if trains)
    if not names:
        raise ConfigError(f"config.stages.{stage_name}.train: nothing trains; set at least one rule to True")
    return names


def _top_blocks(cfg: Config, stage_name: str) -> tuple[tuple[str, bool], ...]:
    stage = cfg.stages[stage_name]
    if stage.top_blocks == 0:
        return ()
    if stage.top_blocks > min(cfg.vision.depth, cfg.text.depth):
        raise ConfigError(
            f"config.stages.{stage_name}.top_blocks is {stage.top_blocks}; "
            f"the towers have {cfg.vision.depth} and {cfg.text.depth} blocks"
        )
    vision = range(cfg.vision.depth - stage.top_blocks, cfg.vision.depth)
    text = range(cfg.text.depth - stage.top_blocks, cfg.text.depth)
    return (
        ("vision/(norm|" + "|".join(f"block_{i:02d}" for i in vision) + ")/.*", True),
        ("text/(final_norm|" + "|".join(f"block_{i:02d}" for i in text) + ")/.*", True),
    )


def schedule(stage: Stage) -> optax.Schedule:
    """Return the rate at a step of the stage: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(stage.steps * stage.warmup_fraction)) if stage.warmup_fraction else 0
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else stage.learning_rate, stage.learning_rate, warmup, max(stage.steps, warmup + 1)
    )


def lr_factors(cfg: Config, stage_name: str, paths: Iterable[str]) -> Mapping[str, float]:
    """Return each parameter's factor on the learning rate."""
    return rules.match(cfg.stages[stage_name].lr_factors, paths, f"config.stages.{stage_name}.lr_factors")


def decayed(cfg: Config, paths: Iterable[str]) -> Mapping[str, bool]:
    """Return whether weight decay touches each parameter."""
    return {path: not spared for path, spared in rules.any_of(cfg.no_decay, paths, "config.no_decay").items()}


def optimizer(cfg: Config, stage_name: str, paths: Iterable[str]) -> optax.GradientTransformationExtraArgs:
    """Return the stage's optimizer over a flat dict of its trainable parameters.

    adamw      two moments, float32: twice the memory of what trains.
    adafactor  of a matrix the sums of its squared gradients over rows and over columns, and no first moment: next to
               nothing (Shazeer and Stern 2018, without its relative steps: the rate is the stage's, as AdamW's).

    Gradients are clipped by their global norm over all that trains, before anything else. `paths` are all parameters.
    `update` takes the loss of the step, which is remembered where spikes are looked for.
    """
    stage, paths = cfg.stages[stage_name], list(paths)
    factors, decay, rate = lr_factors(cfg, stage_name, paths), decayed(cfg, paths), schedule(stage)

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


class Losses(NamedTuple):
    """The losses of the last applied steps of a stage, as a part of the optimizer's state and so of checkpoints."""

    count: jax.Array  # int32 scalar
    window: jax.Array  # float32 [spike_window], the oldest is overwritten


def _watch_losses(window: int) -> optax.GradientTransformationExtraArgs:
    def init(params: Any) -> Losses:
        del params
        return Losses(jnp.zeros((), jnp.int32), jnp.zeros(window, jnp.float32))

    def update(updates: Any, state: Any, params: Any = None, **given: Any) -> Any:
        del params
        loss = given["loss"]
        return updates, Losses(state.count + 1, state.window.at[state.count % window].set(loss))

    return optax.GradientTransformationExtraArgs(init, update)


def spike_above(cfg: Config, opt_state: Any) -> jax.Array:
    """Return the loss above which a step is a spike: mean + spike_sigma x deviation of a full window, else infinity."""
    if not cfg.bad_steps.spike_sigma:
        return jnp.array(jnp.inf)
    count, window = opt_state[-1]
    limit = window.mean() + cfg.bad_steps.spike_sigma * window.std()
    return jnp.where(count >= window.size, limit, jnp.inf)


def start_fused(cfg: Config, params: Params) -> Params:
    """Let the bridge start where the towers are (METHOD section 5, point 12).

    Done when a stage begins whose fused parts were never trained. The fused projections become copies of the unimodal
    ones: with gates nearly closed the fused score is the unimodal score, and training only has to improve on it.

    The attention starts there too, where the method draws it at random. A unimodal cosine is a mean over all tokens
    and patches of <W_t h_t, W_v h_v>, so the unimodal projections have already learned which word goes with which
    patch. The first E columns of both maps into the shared width become W G with one random rotation G (so that every
    head sees a share of all directions), queries and keys the identity: a word's attention over the patches starts as
    its own cosines. The other columns stay random and carry what the embeddings leave out, such as where things are.
    The first layer stays as it is where a loss (`token_itc`) trains what it compares.
    """
    heads = params["heads"]
    copies = {f"fused_{side}": jax.tree.map(jnp.copy, heads[f"unimodal_{side}"]) for side in ("image", "text")}
    scale = jnp.exp(heads["log_scale"])
    started = {**params, "heads": {**heads, **copies, "itm": {**heads["itm"], "scale": scale}}}
    if cfg.bridge.layers:
        kept = {"layer_0"} if any(losses.needs(name).matches for name in cfg.losses) else set()
        started["bridge"] = {
            name: layer if name in kept else _start_attention(cfg, params, layer)
            for name, layer in params["bridge"].items()
        }
    return started


def _start_attention(cfg: Config, params: Params, layer: Params) -> Params:
    E, S = cfg.bridge.embed_width, cfg.bridge.shared_width
    rotation = jax.random.orthogonal(rng.key(cfg.seed, "start", 0), E)[:, : min(E, S)]
    layer = dict(layer)
    for side in ("image", "text"):
        aligned = jax.tree.map(lambda leaf: leaf @ rotation, params["heads"][f"unimodal_{side}"]["linear"])
        drawn = layer[f"{side}_to_shared"]
        layer[f"{side}_to_shared"] = jax.tree.map(
            lambda new, old: jnp.concatenate([new, old[..., new.shape[-1] :]], axis=-1), aligned, drawn
        )
    if cfg.bridge.placement != "after":  # there the states have been through the tower's final norm
        layer["image_norm"] = jax.tree.map(jnp.copy, params["vision"]["norm"])
        if "final_norm" in params["text"]:  # a post-norm tower has none, and its states are normalised
            copied = jax.tree.map(jnp.copy, params["text"]["final_norm"])
            layer["text_norm"] = {**layer["text_norm"], **copied}
    for direction in ("text_over_image", "image_over_text"):
        identity = {name: {"kernel": jnp.eye(S), "bias": jnp.zeros(S)} for name in ("query", "key")}
        if "query" in layer[direction]:  # the pooled design has none
            layer[direction] = {**layer[direction], **identity}
    return layer
