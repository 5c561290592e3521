"""COCO captions, Karpathy split, ViT-B/16 at 224 px and BERT-base: the paper's main experiment (docs/method.md 3.3).

    hf download google-bert/bert-base-uncased vocab.txt --local-dir=data/bert-base-uncased
    python -m tools.prepare_data --dataset=coco --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/coco.py --workdir=runs/coco
    python -m tools.evaluate --workdir=runs/coco --split=test --rerank

`DIR` holds `train2014/`, `val2014/` and Karpathy's `dataset_coco.json`. `val` chooses the checkpoint. The table at the
end is for `test`: 5,000 photos at once ("5K"), and the mean over five folds of 1,000 ("1K").

`configs/coco.py:size=large` is ViT-L/16 and BERT-large, `configs/coco.py:size=huge` ViT-H/14 and RoBERTa-large, whose
vocabulary is its `tokenizer.json`. `--config.mesh.fsdp=8` spreads them over 8 devices.

A stage's `learning_rate` is the towers' rate. The paper's "new parameters 10x lr" multiplies it for all parameters that
are not pretrained, in every stage: bridge and heads run at 1e-3, 5e-4 and 1e-4 while the open tower blocks run at 5e-5
and 1e-5 (in `stabilise` none is open). The authors' code sets that factor and then overwrites it in every epoch, so
their runs used the stage's rate for all parameters: `lr_factors(new=1.0, scalars=1.0)` in this file. Gates and
temperatures run at 20x here (docs/method.md 5.14).

Training does not cache the lower states: one crop of each photo would take 34 GB, and the captions 26 GB. Evaluation
keeps the lower states of `test` in memory, 2.7 GB in bfloat16.
"""

import ml_collections

from configs import common

TRAIN_PHOTOS = 113_287
BATCH_SIZE = 128


def stages(photos: int) -> dict[str, ml_collections.ConfigDict]:
    """Return the paper's three stages over a training split of `photos`."""

    def stage(epochs: float, **changes) -> ml_collections.ConfigDict:
        return common.stage(
            steps=common.epochs(epochs, photos, BATCH_SIZE),
            batch_size=BATCH_SIZE,
            lr_factors=common.lr_factors(new=10.0, scalars=20.0),
            **changes,
        )

    return dict(
        stabilise=stage(5, learning_rate=1e-4),
        align=stage(15, learning_rate=5e-5, top_blocks=4),
        task=stage(10, learning_rate=1e-5, train=common.EVERYTHING),
    )


def sizes() -> dict[str, tuple]:
    """Return the image tower, the text tower, its vocabulary and the bridge of every size (docs/method.md 1.11)."""
    return {
        "base": (
            common.vit("base", patch_px=16, image_px=224, pretrained="google/vit-base-patch16-224-in21k"),
            common.bert("base", length=30, pretrained="google-bert/bert-base-uncased"),
            "data/bert-base-uncased/vocab.txt",
            dict(layers=6, shared_width=768, heads=12, embed_width=256),
        ),
        "large": (
            common.vit("large", patch_px=16, image_px=224, pretrained="google/vit-large-patch16-224-in21k"),
            common.bert("large", length=30, pretrained="google-bert/bert-large-uncased"),
            "data/bert-large-uncased/vocab.txt",
            dict(layers=4, shared_width=1024, heads=16, embed_width=384),
        ),
        "huge": (
            common.vit("huge", patch_px=14, image_px=224, pretrained="google/vit-huge-patch14-224-in21k"),
            common.roberta("large", length=30, pretrained="FacebookAI/roberta-large"),
            "data/roberta-large/tokenizer.json",
            dict(layers=6, shared_width=1280, heads=20, embed_width=512),
        ),
    }


def get_config(size: str = "size=base") -> ml_collections.ConfigDict:
    """Return the experiment at "size=base", "size=large" or "size=huge"."""
    known, name = sizes(), size.removeprefix("size=")
    if name not in known:
        raise ValueError(f"configs/coco.py:{size}: expected size= and one of {', '.join(known)}")
    config = common.base()
    config.compute_dtype = "bfloat16"
    config.vision, config.text, vocabulary, bridge = known[name]
    config.bridge.update(bridge)
    config.data.update(dataset="coco", vocabulary=vocabulary, crop_area=(0.9, 1.0), flip=True, workers=8)
    config.blocks.update(scan=True, remat="full")  # 64 pairs fit a TPU v5e chip, and a stage compiles in minutes
    config.stages = stages(TRAIN_PHOTOS)
    config.stage_order = ("stabilise", "align", "task")
    config.evals.retrieval.update(splits=("test",), folds=5)
    return config
