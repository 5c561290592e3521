"""Turn a ConfigDict into checked, frozen dataclasses.

A config file builds an `ml_collections.ConfigDict` so that every key can be overridden on the command line. `parse`
turns it into the records of `keys.py`. An unknown key, a missing key and a value of the wrong type are errors that name
the key. There are no defaults, so the config file states every value that a run uses.
"""

import dataclasses
import types

import ml_collections

from bridge_jax.config.convert import ConfigError, build, require, require_one_of
from bridge_jax.config.evaluators import StageEvaluator
from bridge_jax.config.evaluators import find as evaluator
from bridge_jax.config.keys import Config
from bridge_jax.config.objectives import bind, evaluator_of, known, needs, reads

DESIGNS = ("none", "pooled", "self_cross", "cross")
MINED_FROM = ("batch", "split")
PLACEMENTS = ("top", "middle", "early", "staggered", "after")


def parse(config: ml_collections.ConfigDict) -> Config:
    """Return the checked config. Raises ConfigError naming the key."""
    cfg = build(Config, config.to_dict(), "config")
    _check_values(cfg)  # first, as the others import losses and evaluators and with them jax: seconds
    found = {name: evaluator(name).Settings for name in cfg.evals}
    settings = {
        name: build(cls, cfg.evals[name], f"config.evals.{name}")
        for name, cls in found.items()
        if cfg.evals[name] is not None
    }
    cfg = dataclasses.replace(cfg, evals=types.MappingProxyType(settings))
    check(cfg)
    return cfg


def check(cfg: Config) -> None:
    """Raise ConfigError, naming the key, if values cannot work together."""
    _check_values(cfg)
    for name, settings in cfg.evals.items():
        for key in ("batch_size", "every_steps"):
            if hasattr(settings, key):
                value = getattr(settings, key)
                require(value > 0, f"config.evals.{name}.{key} is {value}; it must be positive")
    _check_losses(cfg)
    for name in cfg.stage_order:
        _check_rows(cfg, name)


def _check_values(cfg: Config) -> None:
    _check_limits(cfg)
    vision, text, bridge = cfg.vision, cfg.text, cfg.bridge
    for name, width, heads in (
        ("vision", vision.width, vision.heads),
        ("text", text.width, text.heads),
        ("bridge", bridge.shared_width, bridge.heads),
        *([("decoder", cfg.decoder.width, cfg.decoder.heads)] if cfg.decoder else ()),
    ):
        require(heads > 0 and width % heads == 0, f"config.{name}: width {width} is not a multiple of {heads} heads")
    require(
        text.length <= text.max_positions,
        f"config.text.length {text.length} exceeds max_positions {text.max_positions}",
    )
    require_one_of("config.bridge.design", bridge.design, DESIGNS)
    require_one_of("config.bridge.placement", bridge.placement, PLACEMENTS)
    fewest = min(vision.depth, text.depth)
    most = fewest if bridge.placement != "after" else 64
    if bridge.design == "none":
        require(bridge.layers == 0, f"config.bridge.layers is {bridge.layers}; design 'none' has none: set it to 0")
    else:
        require(
            1 <= bridge.layers <= most,
            f"config.bridge.layers is {bridge.layers}; placement {bridge.placement!r} needs 1 to {most} "
            f"(towers of {vision.depth} and {text.depth} blocks)",
        )
    require(0 < bridge.gate_start < 1, f"config.bridge.gate_start is {bridge.gate_start}; it must lie in (0, 1)")
    require(bridge.tau_start > 0, f"config.bridge.tau_start is {bridge.tau_start}; it must be positive")
    for key, value in (
        ("vision.patch_px", vision.patch_px),
        ("data.threads", cfg.data.threads),
        ("mining.partners", cfg.mining.partners),
        ("checkpoint.every_steps", cfg.checkpoint.every_steps),
        ("log_every_steps", cfg.log_every_steps),
    ):
        require(value > 0, f"config.{key} is {value}; it must be positive")
    _check_mining(cfg)
    require(
        vision.image_px % vision.patch_px == 0,
        f"config.vision.image_px {vision.image_px} is not a multiple of patch_px {vision.patch_px}",
    )
    for name, arguments in cfg.losses.items():
        require("weight" in arguments, f"config.losses.{name}.weight is missing; add it to the config file")
    _check_stages(cfg)


def _check_mining(cfg: Config) -> None:
    mining = cfg.mining
    require_one_of("config.mining.source", mining.source, MINED_FROM)
    require(mining.refresh_steps >= 0, f"config.mining.refresh_steps is {mining.refresh_steps}; it must be 0 or more")
    first, last = mining.ranks
    require(
        (first, last) == (0, 0) or 1 <= first <= last,
        f"config.mining.ranks is {(first, last)}; expected (first, last) with 1 <= first <= last, or (0, 0) for a band "
        "of margins",
    )
    if mining.source == "batch":
        require(
            mining.refresh_steps == 0,
            f"config.mining.refresh_steps is {mining.refresh_steps}, but partners come from the batch, which is ranked "
            "at every step: set it to 0, or config.mining.source to 'split'",
        )
        return
    require(
        last > 0,
        "config.mining.ranks is (0, 0), but partners come from the whole split, whose band is one of ranks: set it, "
        "such as (1, 32)",
    )
    require(
        mining.partners <= last - first + 1,
        f"config.mining.partners is {mining.partners}, but the ranks {first} to {last} hold {last - first + 1}: widen "
        "config.mining.ranks",
    )
    require(
        not cfg.data.mixture,
        "config.mining.source is 'split', but config.data.mixture joins several data sets, which are not ranked as "
        "one: set it to 'batch'",
    )


def _check_losses(cfg: Config) -> None:
    for name, arguments in cfg.losses.items():
        bind(name, arguments)
        if fits := needs(name).check:
            fits(cfg)
    for name in cfg.evals:
        wanted = evaluator(name).losses
        found = [loss for loss in wanted if loss in cfg.losses]
        require(
            bool(found) or not wanted,
            f"config.evals.{name} needs the loss {' or '.join(wanted)}: add it to config.losses, or leave the "
            "evaluator out",
        )
        require(
            len(found) < 2,
            f"config.losses: {' and '.join(found)} are both scored by config.evals.{name}, which scores only one: "
            "leave the other out",
        )
    _check_decoder(cfg)


def _check_decoder(cfg: Config) -> None:
    writing = {name: of for name in cfg.losses if (of := needs(name).decoder)}
    for name, of in writing.items():
        require(
            cfg.decoder is not None,
            f"config.decoder is missing, but config.losses.{name} trains it: add it (see common.decoder), or leave the "
            "loss out",
        )
        reads = cfg.decoder.reads if cfg.decoder else ""
        require(
            reads in of,
            f"config.decoder.reads is {reads!r}, but config.losses.{name} needs {' or '.join(map(repr, of))}: set "
            f"config.decoder.reads={of[0]}",
        )
    if cfg.decoder is not None and not writing:
        trainers = " or ".join(name for name in known() if needs(name).decoder)
        raise ConfigError(
            f"config.decoder is there, but no loss trains it: add {trainers} to config.losses, or leave the decoder out"
        )


def _check_stages(cfg: Config) -> None:
    for name in cfg.stage_order:
        require_one_of("config.stage_order", name, cfg.stages)
        _check_stage(cfg, name)
    twice = next((name for name in cfg.stage_order if cfg.stage_order.count(name) > 1), None)
    require(twice is None, f"config.stage_order names {twice!r} twice: add a stage of another name to config.stages")
    require(bool(cfg.stage_order), f"config.stage_order is empty: name stages out of {', '.join(sorted(cfg.stages))}")


def _check_stage(cfg: Config, name: str) -> None:
    stage, key = cfg.stages[name], f"config.stages.{name}"
    require(stage.steps > 0, f"{key}.steps is {stage.steps}; to leave a stage out, drop it from stage_order")
    require(bool(stage.losses), f"{key}.losses is empty: name at least one of {', '.join(sorted(cfg.losses))}")
    for loss in stage.losses:
        require(
            loss in cfg.losses or loss not in known(),
            f"{key}.losses names {loss!r}, but config.losses.{loss} is missing: add its weight and its other settings",
        )
        require_one_of(f"{key}.losses", loss, cfg.losses)
    require(
        stage.group_examples > 0 and stage.batch_size % stage.group_examples == 0,
        f"{key}.batch_size {stage.batch_size} is not a multiple of group_examples {stage.group_examples}",
    )
    require(stage.wrong_captions >= 0, f"{key}.wrong_captions is {stage.wrong_captions}; it must be 0 or more")
    kinds, shares = stage.caption_kinds, stage.kind_shares
    require(
        not shares or (len(shares) == len(kinds) and min(shares) > 0),
        f"{key}.kind_shares is {shares}; expected a positive share for each of caption_kinds {kinds}, or () to draw "
        "all captions alike",
    )
    require(
        cfg.mining.group >= 0 and stage.batch_size % (cfg.mining.group or 1) == 0,
        f"{key}.batch_size {stage.batch_size} is not a multiple of config.mining.group {cfg.mining.group}: "
        "choose a divisor, or 0 to mine among all rows",
    )
    require(
        stage.microbatches > 0 and stage.batch_size % (stage.microbatches * (cfg.mining.group or 1)) == 0,
        f"{key}.batch_size {stage.batch_size} is not a multiple of microbatches {stage.microbatches}"
        + (f" x config.mining.group {cfg.mining.group}" if cfg.mining.group else ""),
    )
    require(
        not cfg.data.mixture or (stage.group_examples == 1 and not stage.cached_crops),
        f"{key}: with config.data.mixture neighbouring rows come from different data sets and no states are cached: "
        "set group_examples=1 and cached_crops=0",
    )


def _check_rows(cfg: Config, name: str) -> None:
    """Raise ConfigError if a stage has no evaluator, its losses read different texts or numbers of pictures, or they
    need inputs that the cache does not hold.
    """
    stage, key = cfg.stages[name], f"config.stages.{name}"
    require(
        evaluator_of(stage) in cfg.evals,
        f"config.evals.{evaluator_of(stage)} is missing: it chooses the best checkpoint of {key}",
    )
    require(
        issubclass(evaluator(evaluator_of(stage)), StageEvaluator),
        f"{key}.losses: bridge_jax/evals/{evaluator_of(stage)}.py scores no stage, so it cannot choose the best "
        "checkpoint: let the loss name another evaluator, or make it a StageEvaluator",
    )
    readers = {loss: of for loss in stage.losses if (of := needs(loss).reads)}
    other = next((loss for loss, of in readers.items() if of != reads(stage)), None)
    require(
        other is None,
        f"{key}.losses: "
        + " and ".join(f"{loss} reads {of}" for loss, of in readers.items() if loss == other or of == reads(stage))
        + ": give them stages of their own",
    )
    several = [loss for loss in stage.losses if needs(loss).pictures]
    require(
        not several or len(stage.losses) == 1,
        f"{key}.losses: {' and '.join(several)} may read several pictures a row, and the other losses one: give it a "
        "stage of its own",
    )
    for loss in stage.losses if stage.cached_crops else ():
        require(
            needs(loss).fields is None and needs(loss).reads in ("", "captions"),
            f"{key}.cached_crops is {stage.cached_crops}, but the cache holds pictures and captions, and {loss} reads "
            "more: set cached_crops=0",
        )


def _check_limits(cfg: Config) -> None:
    limit, bad = cfg.data.broken_limit, cfg.bad_steps
    require(0 <= limit <= 1, f"config.data.broken_limit is {limit}; it is a share, 0 to 1")
    for key, value, least in (
        ("budget", bad.budget, 0),
        ("spike_sigma", bad.spike_sigma, 0),
        ("spike_window", bad.spike_window, 2),
    ):
        require(value >= least, f"config.bad_steps.{key} is {value}; it must be {least} or more")
