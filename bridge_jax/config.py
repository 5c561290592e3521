"""A ConfigDict in, checked frozen dataclasses out.

A config file builds an `ml_collections.ConfigDict` so that every key can be overridden on the command line. `parse`
turns it into the records of `config_keys.py`, which everyone takes from here. An unknown key, a missing key and a value
of the wrong type are errors that name the key; there are no defaults, so what a run used is what its config file says.
"""

import dataclasses
from typing import Any

import ml_collections

from bridge_jax.config_convert import ConfigError as ConfigError  # which everyone looks for here
from bridge_jax.config_convert import build, require, require_one_of
from bridge_jax.config_convert import nearest as nearest
from bridge_jax.config_keys import Asking as Asking
from bridge_jax.config_keys import BadSteps as BadSteps
from bridge_jax.config_keys import Blocks as Blocks
from bridge_jax.config_keys import Bridge as Bridge
from bridge_jax.config_keys import Caption as Caption
from bridge_jax.config_keys import Checkpoint as Checkpoint
from bridge_jax.config_keys import Config as Config
from bridge_jax.config_keys import Data as Data
from bridge_jax.config_keys import Decoder as Decoder
from bridge_jax.config_keys import Evals as Evals
from bridge_jax.config_keys import Mesh as Mesh
from bridge_jax.config_keys import Mining as Mining
from bridge_jax.config_keys import Mlm as Mlm
from bridge_jax.config_keys import Retrieval as Retrieval
from bridge_jax.config_keys import Rules as Rules
from bridge_jax.config_keys import Stage as Stage
from bridge_jax.config_keys import Text as Text
from bridge_jax.config_keys import Vision as Vision

DESIGNS = ("none", "pooled", "self_cross", "cross")
PLACEMENTS = ("top", "middle", "early", "staggered", "after")
# loss -> the evaluator that watches the stages that train on it
WATCHERS = {"vqa": "vqa", "vqa_generative": "vqa", "nlvr2": "nlvr2", "caption": "caption"}
# loss that reads no captions -> what it reads
READS = {"vqa": "questions", "vqa_generative": "questions", "nlvr2": "statements"}


def parse(config: ml_collections.ConfigDict) -> Config:
    """Return the checked config. Raises ConfigError naming the key."""
    cfg = build(Config, config.to_dict(), "config")
    check(cfg)
    return cfg


def evaluator(cfg: Config, name: str) -> Any:
    """Return the settings of an evaluator. Raises ConfigError where the config has none."""
    settings = getattr(cfg.evals, name)
    require(settings is not None, f"config.evals.{name} is missing; add it to the config file (see configs/common.py)")
    return settings


def evaluators(cfg: Config) -> list[str]:
    """Return the names of the evaluators that the config has."""
    return [field.name for field in dataclasses.fields(Evals) if getattr(cfg.evals, field.name) is not None]


def watcher(stage: Stage) -> str:
    """Return the evaluator by which the best checkpoint of a stage is chosen."""
    return next((name for loss, name in WATCHERS.items() if loss in stage.losses), "retrieval")


def reads(stage: Stage) -> str:
    """Return which texts of the records a stage reads: captions, questions or statements."""
    return next((texts for loss, texts in READS.items() if loss in stage.losses), "captions")


def reads_questions(stage: Stage) -> bool:
    """Return whether a stage's texts are the questions or the statements of the records, not their captions."""
    return reads(stage) != "captions"


def check(cfg: Config) -> None:
    """Raise ConfigError where values cannot work together."""
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
        *(
            (f"evals.{name}.{key}", getattr(evaluator(cfg, name), key))
            for name in evaluators(cfg)
            for key in ("batch_size", "every_steps")
            if hasattr(evaluator(cfg, name), key)
        ),
        ("checkpoint.every_steps", cfg.checkpoint.every_steps),
        ("log_every_steps", cfg.log_every_steps),
    ):
        require(value > 0, f"config.{key} is {value}; it must be positive")
    require(
        vision.image_px % vision.patch_px == 0,
        f"config.vision.image_px {vision.image_px} is not a multiple of patch_px {vision.patch_px}",
    )
    _check_stages(cfg)
    _check_losses(cfg)


def _check_losses(cfg: Config) -> None:
    for name, arguments in cfg.losses.items():
        require("weight" in arguments, f"config.losses.{name}.weight is missing")
    _check_tasks(cfg)
    in_use = {loss for name in cfg.stage_order for loss in cfg.stages[name].losses}
    require(
        "mim" not in in_use or cfg.vision.mask_token,
        "config.vision.mask_token is False but the mim loss is in use: set config.vision.mask_token=True",
    )


def _check_tasks(cfg: Config) -> None:
    answering = [name for name in ("vqa", "vqa_generative") if name in cfg.losses]
    require(
        cfg.evals.vqa is None or bool(answering),
        "config.evals.vqa needs the answers that config.losses.vqa trains (or vqa_generative): add that loss, or leave "
        "the evaluator out",
    )
    require(
        len(answering) < 2,
        "config.losses: vqa and vqa_generative both answer the questions, and config.evals.vqa scores one of them: "
        "leave the other out",
    )
    require(
        cfg.evals.nlvr2 is None or "nlvr2" in cfg.losses,
        "config.evals.nlvr2 needs the head that config.losses.nlvr2 trains: add that loss, or leave the evaluator out",
    )
    if "nlvr2" in cfg.losses and "pictures" in cfg.losses["nlvr2"]:
        pictures = cfg.losses["nlvr2"]["pictures"]
        require(pictures in (1, 2), f"config.losses.nlvr2.pictures is {pictures}; a statement is about 1 or 2")
    _check_decoder(cfg)
    require(
        cfg.evals.mlm is None or "mlm" in cfg.losses,
        "config.evals.mlm needs the head that config.losses.mlm trains: add that loss, or leave the evaluator out",
    )


def _check_decoder(cfg: Config) -> None:
    writing = [name for name in ("caption", "vqa_generative") if name in cfg.losses]
    require(
        bool(writing) == (cfg.decoder is not None),
        f"config.decoder and config.losses.{writing[0] if writing else 'caption'} belong together: "
        + ("the loss trains a decoder" if writing else "nothing else but vqa_generative trains a decoder")
        + ": give both or neither (see common.decoder)",
    )
    require(
        cfg.evals.caption is None or "caption" in cfg.losses,
        "config.evals.caption needs config.losses.caption, which trains config.decoder to write captions: add both, or "
        "leave the evaluator out",
    )
    require(
        "vqa_generative" not in cfg.losses or (cfg.decoder is not None and cfg.decoder.reads == "fused"),
        "config.decoder.reads is 'image', but the decoder of vqa_generative sees the question in the fused states "
        "alone: set config.decoder.reads=fused",
    )


def _check_stages(cfg: Config) -> None:
    for name in cfg.stage_order:
        require_one_of("config.stage_order", name, cfg.stages)
        _check_stage(cfg, name)
    twice = next((name for name in cfg.stage_order if cfg.stage_order.count(name) > 1), None)
    require(twice is None, f"config.stage_order names {twice!r} twice: give the second one a name of its own in stages")
    require(bool(cfg.stage_order), f"config.stage_order is empty: name stages out of {', '.join(sorted(cfg.stages))}")


def _check_stage(cfg: Config, name: str) -> None:
    stage, key = cfg.stages[name], f"config.stages.{name}"
    require(stage.steps > 0, f"{key}.steps is {stage.steps}; to leave a stage out, drop it from stage_order")
    require(bool(stage.losses), f"{key}.losses is empty: name at least one of {', '.join(sorted(cfg.losses))}")
    for loss in stage.losses:
        require_one_of(f"{key}.losses", loss, cfg.losses)
    require(
        stage.group_examples > 0 and stage.batch_size % stage.group_examples == 0,
        f"{key}.batch_size {stage.batch_size} is not a multiple of group_examples {stage.group_examples}",
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
        f"{key}: with config.data.mixture a row's neighbours are of other data sets, and there is no cache: set "
        "group_examples=1 and cached_crops=0",
    )
    require(
        getattr(cfg.evals, watcher(stage)) is not None,
        f"config.evals.{watcher(stage)} is missing: it chooses the best checkpoint of {key}",
    )
    for loss in (loss for loss in READS if loss in stage.losses):
        captions = [loss for loss in stage.losses if loss in ("itc", "sigmoid", "fused_itc", "itm", "caption")]
        does = "writes" if captions[:1] == ["caption"] else "compares pictures with"
        require(
            not captions,
            f"{key}.losses: {loss} reads {READS[loss]}, and {captions and captions[0]} {does} captions: give them "
            "stages of their own",
        )
        require(
            not stage.cached_crops,
            f"{key}.cached_crops is {stage.cached_crops}, but the cache holds captions, not the {READS[loss]} that "
            f"{loss} reads: set cached_crops=0",
        )
    others = [loss for loss in stage.losses if loss != "nlvr2"]
    require(
        "nlvr2" not in stage.losses or not others,
        f"{key}.losses: a statement of nlvr2 may be about several pictures, and {others and others[0]} reads one a "
        "row: give them stages of their own",
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
