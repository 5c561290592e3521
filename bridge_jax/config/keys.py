"""Every key that a config may have, except those of losses and evaluators, which are in their own files.

`checks.py` reads and checks them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from bridge_jax.config.convert import SECTION

Rules = tuple[tuple[str, Any], ...]  # (path pattern, value), the first match wins; see rules.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vision:
    """The image tower. `mean` and `std`, per RGB channel in 0..1, are those that the pretrained tower expects."""

    tower: str  # module of bridge_jax/models
    depth: int
    width: int
    heads: int
    mlp_width: int
    patch_px: int
    image_px: int  # side of the square input
    position_grid: int  # side of the stored position grid; resized if image_px / patch_px differs
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
    match_threshold_start: float  # cosine for which the match logit is zero at start: near that of true pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """The decoder, which writes captions or answers word by word. A config without this section has none."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    dropout: float
    reads: Literal[
        "image", "fused"
    ]  # states it attends to: the picture's own, or both sides' after the bridge (text may be empty)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data sets, and how a picture and a caption become a training example."""

    dataset: str  # module of bridge_jax/data/datasets
    mixture: tuple[tuple[str, float], ...]  # data sets to train on, each with its share; empty: `dataset` alone
    data_dir: str  # folder that tools.prepare_data wrote
    train_split: str
    eval_split: str
    vocabulary: str  # vocab.txt or tokenizer.json; empty: the one prepared with the data set
    crop_area: tuple[float, ...]  # RandomResizedCrop: least and greatest share of the area
    crop_ratio: tuple[float, ...]  # least and greatest width / height
    squash: bool  # use the whole picture, squashed to a square; else evaluation uses the square in its middle
    flip: bool  # mirror half of the pictures, but none whose captions contain left or right
    randaugment_layers: int  # 0: off
    randaugment_magnitude: int  # 0..10
    workers: int  # processes that decode; 0: threads of this process
    threads: int
    prefetch_batches: int
    broken_limit: float  # share of the training records that may be broken; the run replaces them, and stops above it
    may_change: bool  # whether a resumed run may train on other records than before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """How wrong partners for each text and each image are chosen (docs/method.md 3.1)."""

    source: str  # "batch": from the rows of the batch; "split": from the whole training split, as it was last ranked
    refresh_steps: int  # with "split", rank it again after so many steps of a stage; 0: only where the stage begins
    group: int  # with "batch", number of neighbouring rows that are mined among, best those of one device; 0: all rows
    partners: int  # k for each query
    ranks: tuple[int, int]  # the band as ranks by cosine, (first, last), 1 being the hardest; (0, 0): by the margins
    margin_min: float  # the band of cosines begins this far below the true pair's cosine
    margin_max: float  # and ends this far below it
    false_margin: float  # a cosine above the true pair's by more is no partner, but a match without a label; 2: none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: its trained parameters, losses and rates. Each stage starts with a fresh optimizer."""

    name: str = dataclasses.field(metadata=SECTION)
    steps: int
    batch_size: int  # pairs in the global batch
    microbatches: int  # parts in which the batch goes through the model: less memory, the gradient of the whole
    group_examples: int  # neighbouring examples that the shuffle keeps together (shapes: a scene and its mirror)
    caption_kinds: tuple[str, ...]  # kinds of captions (or questions) to draw, such as description; empty: all
    kind_shares: tuple[float, ...]  # how often each of `caption_kinds` is drawn; empty: as many as a record has of it
    wrong_captions: int  # number of a record's own wrong captions that its picture is compared and fused with
    losses: tuple[str, ...]  # names under `losses`
    train: Rules  # pattern -> True (train) or False (frozen), over every parameter
    top_blocks: int  # K: besides `train`, the last K blocks of each tower train (and the final norm)
    learning_rate: float
    lr_factors: Rules  # pattern -> factor, over every parameter
    warmup_fraction: float
    optimizer: Literal["adamw", "adafactor"]
    weight_decay: float
    clip_norm: float
    cached_crops: int  # > 0: read the lower states of so many fixed crops a photo from disk, not from the towers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_steps: int
    keep_last: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadSteps:
    """The handling of a step with a number that is not finite, or with a loss that is a spike. It is never applied."""

    action: Literal["stop", "skip"]
    budget: int  # steps that a run may skip before it stops
    spike_sigma: float  # a loss so many standard deviations above the window's mean is a spike; 0: no loss is
    spike_window: int  # number of earlier steps of the same stage in the window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """How the towers' blocks are compiled and run; the numbers do not depend on it."""

    scan: bool  # compile one of several equal blocks, and of equal bridged segments, instead of each
    remat: Literal["none", "dots", "full"]  # the backward pass computes again: nothing, all but products, everything
    kernels: Literal["auto", "plain", "kernel", "interpret"]  # models/kernels: auto is kernels on TPUs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """The arrangement of the devices. One of the three may be -1: it becomes the number that the others leave."""

    data: int  # copies of the parameters
    fsdp: int  # devices over which a copy's parameters and optimizer state are spread
    tensor: int  # devices over which a matrix product is spread


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
    watchdog_secs: float  # seconds without a step until every thread's stack is written to WORKDIR/stacks.txt; 0: off
    trackers: tuple[str, ...]  # files of bridge_jax/workdir/trackers: where the numbers are shown too
    cache_dir: str  # folder of cached lower states, keyed by weights and preprocessing, so runs may share it
    report: bool  # write the page of the run to WORKDIR/report.html at its end (tools.report)
    init_from: str  # a checkpoint folder whose parameters this run starts from; empty: none

    @property
    def run_stages(self) -> tuple[Stage, ...]:
        """The stages that a run trains, in order."""
        return tuple(self.stages[name] for name in self.stage_order)

    def __hash__(self) -> int:
        return hash((self.seed, self.vision, self.text, self.bridge, self.data))  # mappings have no hash
