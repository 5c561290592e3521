"""Every key that a config may have, but for those of losses and evaluators, which are in their files.

`checks.py` reads and checks them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

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
    """The interaction layers and the heads (docs/method.md 1.2 to 1.5)."""

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
    """What writes captions or answers, word by word. A model has none where the config leaves this out."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    dropout: float
    reads: Literal["image", "fused"]  # the picture's own states, or both sides' after they met: text or none


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
    """Which wrong partners are fused with each text and each image (docs/method.md 3.1)."""

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
    evals: Mapping[str, Any]  # evaluator -> the Settings of bridge_jax/evals/<name>.py
    checkpoint: Checkpoint
    bad_steps: BadSteps
    log_every_steps: int
    watchdog_secs: float  # no step for so long: every thread's stack goes to WORKDIR/stacks.txt; 0: off
    cache_dir: str  # where cached lower states live; keyed by weights and preprocessing, so runs may share it
    init_from: str  # a checkpoint folder whose parameters this run starts from; empty: none

    def __hash__(self) -> int:
        return hash((self.seed, self.vision, self.text, self.bridge, self.data))  # mappings have none
