"""The parts that all experiments share: tower sizes, the bridge, losses and the three stages of the paper.

docs/method.md describes the method. `bridge_jax/config/keys.py` and the files of losses and evaluators list every key
that a config may have.
"""

import ml_collections

SIZES = {  # depth, width, heads, mlp width
    "tiny": (4, 128, 4, 512),
    "small": (12, 384, 6, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "huge": (32, 1280, 16, 5120),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def vit(size: str, *, patch_px: int, image_px: int, **changes) -> ml_collections.ConfigDict:
    """Return a ViT with the layout of Hugging Face's `vit` (pixels scaled to -1..1)."""
    depth, width, heads, mlp_width = SIZES[size]
    tower = dict(
        tower="vit",
        depth=depth,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
        patch_px=patch_px,
        image_px=image_px,
        position_grid=image_px // patch_px,
        layer_scale=False,
        mask_token=False,
        norm_eps=1e-12,
        dropout=0.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pretrained="",
    )
    return ml_collections.ConfigDict(tower | changes)


def dinov2(size: str, *, image_px: int, **changes) -> ml_collections.ConfigDict:
    """Return a DINOv2 ViT: patch 14, LayerScale, a 37x37 position grid resized to `image_px`, ImageNet statistics."""
    changes = dict(position_grid=37, layer_scale=True, norm_eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD) | changes
    return vit(size, patch_px=14, image_px=image_px, **changes)


def bert(size: str, *, length: int, **changes) -> ml_collections.ConfigDict:
    """Return a BERT-style encoder with the bert-base-uncased vocabulary size."""
    depth, width, heads, mlp_width = SIZES[size]
    tower = dict(
        tower="bert",
        depth=depth,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
        vocab_size=30522,
        max_positions=512,
        token_types=2,
        length=length,
        norm_eps=1e-12,
        dropout=0.1,
        pretrained="",
    )
    return ml_collections.ConfigDict(tower | changes)


def roberta(size: str, *, length: int, **changes) -> ml_collections.ConfigDict:
    """Return a RoBERTa: its own tokenizer.json (50,265 byte-level pieces), 512 positions after two unused ones."""
    changes = dict(tower="roberta", vocab_size=50265, max_positions=514, token_types=1, norm_eps=1e-5) | changes
    return bert(size, length=length, **changes)


def xlm_roberta(size: str, *, length: int, **changes) -> ml_collections.ConfigDict:
    """Return an XLM-RoBERTa, such as multilingual-e5: a tokenizer.json of 250,002 pieces of 100 languages."""
    return roberta(size, length=length, **(dict(tower="xlm_roberta", vocab_size=250002) | changes))


def minilm(*, length: int, **changes) -> ml_collections.ConfigDict:
    """Return MiniLM-L6: a BERT of 6 blocks, width 384, 12 heads."""
    return bert("small", length=length, **(dict(depth=6, heads=12) | changes))


BRIDGE_AND_HEADS = (("vision/.*", False), ("text/.*", False), ("(bridge|heads|loss_weights)/.*", True))
DECODER = (("decoder/.*", True), (".*", False))
EVERYTHING = ((".*", True),)
# Scalars hardly move at the rate of matrices: gates went from 0.100 to 0.095 in 550 steps (docs/method.md 5.14).
SCALARS = (
    r"bridge/.*/(image_gate|text_gate|tau)|loss_weights/.*"
    r"|heads/(log_scale|sigmoid/bias|itm/(scale|threshold)|token_itc/(log_scale|threshold))"
)


# Over `tensor`, Megatron's layout: the first matrix of a pair is split by columns, the second by rows, so that only the
# sum after the second crosses devices. Over `fsdp`, the other dimension of every large matrix is split, nothing else.
SHARDING = (
    (r"(vision|text|bridge)/.*/(query|key|value|qkv|up)/kernel", ("fsdp", "tensor")),
    (r"(vision|text|bridge)/.*/(query|key|value|up)/bias", ("tensor",)),
    (r"(vision|text|bridge)/.*/(out|down)/kernel", ("tensor", "fsdp")),
    (r"bridge/.*/(image|text)_to_shared/kernel|heads/.*/linear/kernel", ("fsdp",)),
    (r"bridge/.*/shared_to_(image|text)/kernel|text/word/embedding", ("", "fsdp")),
    (r".*", ()),
)


def lr_factors(*, new: float, scalars: float) -> tuple:
    """Return the rate factors: `scalars` for gates and temperatures, `new` for bridge and heads, 1 for the towers."""
    return ((SCALARS, scalars), ("(bridge|heads)/.*", new), (".*", 1.0))


def base() -> ml_collections.ConfigDict:
    """Return the config that every experiment starts from: docs/method.md 3.3 with corrected losses (section 5)."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.compute_dtype = "float32"
    config.blocks = dict(scan=False, remat="none", kernels="auto")
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.sharding = SHARDING
    config.bridge = dict(
        design="cross",
        placement="top",
        layers=6,
        shared_width=768,
        heads=12,
        embed_width=256,
        tau_start=0.1,
        gate_start=0.1,
        attention_dropout=0.1,
        output_dropout=0.1,
        logit_scale_start=1 / 0.07,
        logit_scale_max=100.0,
        match_threshold_start=0.3,
    )
    config.data = dict(
        dataset="",
        mixture=(),
        data_dir="data",
        train_split="train",
        eval_split="val",
        vocabulary="",
        crop_area=(0.9, 1.0),
        crop_ratio=(0.75, 1.3333),
        squash=False,
        flip=True,
        randaugment_layers=0,
        randaugment_magnitude=5,
        workers=0,
        threads=16,
        prefetch_batches=4,
        broken_limit=0.01,
        may_change=False,
    )
    config.mining = dict(
        source="batch",
        refresh_steps=0,
        group=0,
        partners=2,
        ranks=(0, 0),
        margin_min=0.2,
        margin_max=0.5,
        false_margin=2.0,
    )
    config.losses = dict(
        itc=dict(weight=1.0, chunk_columns=0),
        fused_itc=dict(weight=1.0, form="joint"),
        itm=dict(weight=1.0),
        cycle=dict(weight=0.1),
    )
    config.loss_weighting = "fixed"
    config.no_decay = (
        r".*/(bias|scale|position_bias|image_gate|text_gate|tau|log_scale|threshold)",
        r"vision/(class_token|position|mask_token|registers)|text/(position|token_type)/embedding|loss_weights/.*",
    )
    config.stages = dict()
    config.stage_order = ()
    config.evals = dict(
        retrieval=dict(
            every_steps=1000,
            batch_size=128,
            splits=("val",),
            select_images=1000,
            select_by="unimodal",
            rerank_top_k=16,
            more_top_k=(),
            rerank_weight=1.0,
            fit_rerank_weight=False,
            folds=1,
            bootstrap_samples=1000,
        )
    )
    config.checkpoint = dict(every_steps=1000, keep_last=2)
    config.bad_steps = dict(action="stop", budget=10, spike_sigma=0.0, spike_window=128)
    config.log_every_steps = 50
    config.watchdog_secs = 1800.0
    config.trackers = ("tensorboard",)
    config.cache_dir = "data/cache"
    config.report = False
    config.init_from = ""
    return config


def stage(**changes) -> ml_collections.ConfigDict:
    """Return a stage: all four losses, new parameters at 10x the rate, warm-up 5 %, decay 0.05, clip 1."""
    settings = dict(
        steps=1000,
        batch_size=128,
        microbatches=1,
        group_examples=1,
        caption_kinds=(),
        kind_shares=(),
        wrong_captions=0,
        losses=("itc", "fused_itc", "itm", "cycle"),
        train=BRIDGE_AND_HEADS,
        top_blocks=0,
        learning_rate=1e-4,
        lr_factors=lr_factors(new=1.0, scalars=20.0),
        warmup_fraction=0.05,
        optimizer="adamw",
        weight_decay=0.05,
        clip_norm=1.0,
        cached_crops=0,
    )
    return ml_collections.ConfigDict(settings | changes)


def epochs(count: float, examples: int, batch_size: int) -> int:
    """Return the steps of `count` epochs; an epoch shows each of `examples` once, a photo with one caption."""
    return round(count * examples / batch_size)


def fine_tuning(loss: str, steps: tuple[int, int], batch_size: int) -> dict[str, ml_collections.ConfigDict]:
    """Return the two stages of a task's `loss`: first with the towers frozen but for their top 4 blocks, then all open.

    `steps` is how long each takes; new parameters train at 10x the towers' rate, gates and temperatures at 20x.
    """
    both = dict(batch_size=batch_size, losses=(loss,), lr_factors=lr_factors(new=10.0, scalars=20.0))
    return dict(
        align=stage(steps=steps[0], learning_rate=5e-5, top_blocks=4, **both),
        task=stage(steps=steps[1], learning_rate=2e-5, train=EVERYTHING, **both),
    )


def caption_decoder(config: ml_collections.ConfigDict, size: str, **changes) -> None:
    """Give the experiment a decoder of captions, the loss that trains it and the evaluator of its captions."""
    decoder(config, size, **(dict(reads="image") | changes))
    config.losses.caption = dict(weight=1.0, label_smoothing=0.1)
    config.evals.caption = caption()


def decoder(config: ml_collections.ConfigDict, size: str, **changes) -> None:
    """Give the experiment a decoder of answers and its rules. It reads picture and question after the bridge."""
    depth, width, heads, mlp_width = SIZES[size]
    settings = dict(layers=depth, width=width, heads=heads, mlp_width=mlp_width, dropout=0.1, reads="fused")
    config.decoder = settings | changes
    config.sharding = tuple(
        (pattern.replace("(vision|text|bridge)", "(vision|text|bridge|decoder)"), axes) for pattern, axes in SHARDING
    )
    config.no_decay = (*config.no_decay, "decoder/position/embedding")


def caption(**changes) -> ml_collections.ConfigDict:
    """Return the evaluator of captions."""
    settings = dict(
        every_steps=1000,
        batch_size=128,
        splits=("val",),
        select_images=1000,
        bootstrap_samples=1000,
        search="beam",
        beams=5,
        length_penalty=0.7,
        nucleus_mass=0.9,
        temperature=1.0,
    )
    return ml_collections.ConfigDict(settings | changes)


def mlm(**changes) -> ml_collections.ConfigDict:
    """Return the evaluator of masked words."""
    settings = dict(batch_size=128, splits=("val",), bootstrap_samples=1000)
    return ml_collections.ConfigDict(settings | changes)


def asking(**changes) -> ml_collections.ConfigDict:
    """Return the evaluator of answers to questions, or of judgements of statements."""
    settings = dict(every_steps=1000, batch_size=128, splits=("val",), select_images=0, bootstrap_samples=1000)
    return ml_collections.ConfigDict(settings | changes)


def zero_shot(**changes) -> ml_collections.ConfigDict:
    """Return the evaluator of zero-shot classification: the best 10 classes are reranked by their first prompt."""
    settings = dict(batch_size=128, splits=("test",), bootstrap_samples=1000, rerank_classes=10, rerank_templates=1)
    return ml_collections.ConfigDict(settings | changes)


def eccv_caption(**changes) -> ml_collections.ConfigDict:
    """Return the evaluator of COCO's test photos by ECCV Caption and CxC; each query's best 50 are reranked."""
    settings = dict(splits=("test",), rerank_top_k=50, bootstrap_samples=1000)
    return ml_collections.ConfigDict(settings | changes)
