"""A ConfigDict in, checked frozen dataclasses out.

A config file builds an `ml_collections.ConfigDict` so that every key can be overridden on the command line. `parse`
turns it into the records below. An unknown key, a missing key and a value of the wrong type are errors that name the
key; there are no defaults here, so what a run used is what its config file says.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from bridge_jax.config_convert import ConfigError as ConfigError  # which everyone looks for here
from bridge_jax.config_convert import build, require, require_one_of
from bridge_jax.config_convert import nearest as nearest

DESIGNS = ("none", "pooled", "self_cross", "cross")
PLACEMENTS = ("top", "middle", "early", "staggered", "after")
READS = {"vqa": "questions", "nlvr2": "statements"}  # what a loss reads that reads no captions
Rules = tuple[tuple[str, Any], ...]  # (path pattern, value), the first match wins; see rules.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vision:
    """The image tower. Normalisation (`mean`, `std` per RGB channel in 0..1) is the tower's own."""

    tower: str  # module of bridge_jax/models
    depth: int
    width: int
    heads: int
    mlp_width: int
    patch_px: int
    image_px: int  # side of the square input
    position_grid: int  # side of the stored position grid; resized where image_px / patch_px differs
    layer_scale: bool
    mask_token: bool  # needed by the mim loss
    norm_eps: float
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pretrained: str  # Hugging Face folder or hub id; empty: random weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """The text tower."""

    tower: str
    depth: int
    width: int
    heads: int
    mlp_width: int
    vocab_size: int
    max_positions: int
    token_types: int
    length: int  # T: captions are padded or cut to this many tokens, [CLS] and [SEP] included
    norm_eps: float
    dropout: float
    pretrained: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bridge:
    """The interaction layers and the heads (METHOD: "interaction block", "stabilisers", "placement", "designs")."""

    design: str
    placement: str
    layers: int  # Q; 0 with design "none"
    shared_width: int  # S
    heads: int
    embed_width: int  # E
    tau_start: float  # temperature of the cosine attention logits at start
    gate_start: float  # value of the residual gates at start, in (0, 1)
    attention_dropout: float
    output_dropout: float
    logit_scale_start: float  # 1 / temperature of the contrastive softmax at start
    logit_scale_max: float
    match_threshold_start: float  # cosine at which the match logit starts at zero: near that of true pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """What writes captions, word by word. A model has none where the config leaves this out."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    dropout: float
    reads: Literal["image", "fused"]  # the picture's own states, or the bridged ones of both sides


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What is read and how a picture and a caption become a training example."""

    dataset: str  # module of bridge_jax/data/datasets
    mixture: tuple[tuple[str, float], ...]  # data sets to train on, each with its share; empty: `dataset` alone
    data_dir: str  # where tools.prepare_data wrote it
    train_split: str
    eval_split: str
    vocabulary: str  # vocab.txt or tokenizer.json; empty: the one prepared with the data set
    crop_area: tuple[float, ...]  # RandomResizedCrop: least and greatest share of the area
    crop_ratio: tuple[float, ...]  # least and greatest width / height
    squash: bool  # see the whole picture, squashed to the square; else evaluation sees the square in its middle
    flip: bool  # mirror half of the pictures, never one whose captions say left or right
    randaugment_layers: int  # 0: off
    randaugment_magnitude: int  # 0..10
    mask_text_fraction: float  # tokens that MLM predicts
    mask_patch_fraction: float  # patches that MIM predicts
    workers: int  # processes that decode; 0: threads of this one
    threads: int
    prefetch_batches: int
    broken_limit: float  # share of the training records that may be broken, and are replaced, before the run stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """Which wrong partners are fused with each text and each image (METHOD: "semi-hard")."""

    group: int  # partners come from so many neighbouring rows of the batch, best those of one device; 0: from all
    partners: int  # k for each query
    margin_min: float  # the band lies between these two below the true pair's cosine
    margin_max: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: what trains, on which losses, how fast. Each starts with a fresh optimizer."""

    steps: int
    batch_size: int  # pairs in the global batch
    microbatches: int  # the batch goes through the model in so many parts: less memory, the gradient of the whole
    group_examples: int  # neighbouring examples that the shuffle keeps together (shapes: a scene and its mirror)
    caption_kinds: tuple[str, ...]  # kinds of captions (or questions) drawn, such as description; empty: all
    losses: tuple[str, ...]  # names under `losses`
    train: Rules  # pattern -> True (train) or False (frozen), over every parameter
    top_blocks: int  # besides `train`: the last K blocks of each tower (and the final norm)
    learning_rate: float
    lr_factors: Rules  # pattern -> factor, over every parameter
    warmup_fraction: float
    optimizer: Literal["adamw", "adafactor"]
    weight_decay: float
    clip_norm: float
    cached_crops: int  # > 0: read the lower states of this many fixed crops a photo from disk instead of running them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall of the unimodal embeddings, and of the bridge reranking their best."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; data.eval_split chooses the best checkpoint
    select_images: int  # photos of data.eval_split scored during training; 0: all
    rerank_top_k: int
    rerank_weight: float  # score = fused + weight x unimodal, both as logits
    folds: int  # also report the mean over this many equal folds (COCO: five of 1K); 1: off
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vqa:
    """Accuracy of the answers to questions about pictures."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; data.eval_split chooses the best checkpoint
    select_images: int  # photos of data.eval_split whose questions are scored during training; 0: all
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """Scores of captions that the decoder writes."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; data.eval_split chooses the best checkpoint
    select_images: int  # photos of data.eval_split that are captioned during training; 0: all
    bootstrap_samples: int
    search: Literal["greedy", "beam", "nucleus"]
    beams: int
    length_penalty: float  # the score of a beam is its log-likelihood / words^length_penalty
    nucleus_mass: float  # a word is drawn of the likeliest that have this probability together
    temperature: float  # of nucleus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nlvr2:
    """Accuracy and consistency of the judgements of statements about pictures."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; data.eval_split chooses the best checkpoint
    select_images: int  # records of data.eval_split whose statements are judged during training; 0: all
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm:
    """Accuracy of the words that the mlm head puts in the place of masked ones."""

    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; it never chooses a checkpoint
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evals:
    """The evaluators of a run, each the module of bridge_jax/evals of that name. One that a config leaves out is None.

    A stage that trains on the loss of an evaluator's name is watched by it, and so its best checkpoint is chosen; all
    other stages by `retrieval`.
    """

    retrieval: Retrieval | None
    vqa: Vqa | None
    caption: Caption | None
    mlm: Mlm | None
    nlvr2: Nlvr2 | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_steps: int
    keep_last: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadSteps:
    """What becomes of a step with a number that is not finite or with a loss that is a spike. It is never applied."""

    action: Literal["stop", "skip"]
    budget: int  # steps that a run may skip before it stops
    spike_sigma: float  # a loss so many standard deviations above the mean of the window is a spike; 0: none is
    spike_window: int  # steps, of the same stage, before it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """How the towers' blocks are run; the numbers do not depend on it."""

    scan: bool  # compile one of equal blocks, and of equal bridged segments, instead of all of them
    remat: Literal["none", "dots", "full"]  # what the backward pass computes again: nothing, all but products, all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """The devices, arranged. One of the three may be -1: whatever the others leave."""

    data: int  # copies of the parameters
    fsdp: int  # a copy's parameters and optimizer state are spread over so many devices
    tensor: int  # a matrix product is spread over so many devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    seed: int
    compute_dtype: Literal["float32", "bfloat16"]
    blocks: Blocks
    mesh: Mesh
    sharding: Rules  # pattern -> the mesh axis of each leading dimension ("": none), over every parameter
    vision: Vision
    text: Text
    bridge: Bridge
    decoder: Decoder | None
    data: Data
    losses: Mapping[str, Mapping[str, Any]]  # name -> weight and the keyword arguments of bridge_jax/losses/<name>.py
    loss_weighting: Literal["fixed", "bounded", "learnable"]
    mining: Mining
    no_decay: tuple[str, ...]  # patterns of parameters that weight decay never touches
    stages: Mapping[str, Stage]
    stage_order: tuple[str, ...]
    evals: Evals
    checkpoint: Checkpoint
    bad_steps: BadSteps
    log_every_steps: int
    watchdog_secs: float  # no step for so long: every thread's stack goes to WORKDIR/stacks.txt; 0: off
    cache_dir: str  # where cached lower states live; keyed by weights and preprocessing, so runs may share it
    init_from: str  # a checkpoint folder whose parameters this run starts from; empty: none


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
    tasks = [field.name for field in dataclasses.fields(Evals) if field.name in stage.losses and field.name != "mlm"]
    return tasks[0] if tasks else "retrieval"


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
    require(
        cfg.evals.vqa is None or "vqa" in cfg.losses,
        "config.evals.vqa needs the answers that config.losses.vqa trains: add that loss, or leave the evaluator out",
    )
    require(
        cfg.evals.nlvr2 is None or "nlvr2" in cfg.losses,
        "config.evals.nlvr2 needs the head that config.losses.nlvr2 trains: add that loss, or leave the evaluator out",
    )
    if "nlvr2" in cfg.losses and "pictures" in cfg.losses["nlvr2"]:
        pictures = cfg.losses["nlvr2"]["pictures"]
        require(pictures in (1, 2), f"config.losses.nlvr2.pictures is {pictures}; a statement is about 1 or 2")
    require(
        ("caption" in cfg.losses) == (cfg.decoder is not None),
        "config.decoder and config.losses.caption belong together: "
        + ("the loss trains a decoder" if "caption" in cfg.losses else "nothing else trains a decoder")
        + ": give both or neither (see common.decoder)",
    )
    require(
        cfg.evals.mlm is None or "mlm" in cfg.losses,
        "config.evals.mlm needs the head that config.losses.mlm trains: add that loss, or leave the evaluator out",
    )
    require(
        cfg.evals.caption is None or cfg.decoder is not None,
        "config.evals.caption needs config.decoder, which writes captions: add it, or leave the evaluator out",
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
        captions = [loss for loss in stage.losses if loss in ("itc", "sigmoid", "fused_itc", "itm")]
        require(
            not captions,
            f"{key}.losses: {loss} reads {READS[loss]}, and {captions and captions[0]} compares pictures with "
            "captions: give them stages of their own",
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
