"""Captions of COCO, from a run of configs/coco.py: a causal decoder of 6 blocks that reads the frozen image tower.

    python -m bridge_jax.main --config=configs/caption.py --workdir=runs/caption --config.init_from=runs/coco
    python -m tools.evaluate --workdir=runs/caption --split=test
    python -m tools.evaluate --workdir=runs/caption --split=test --results=captions_test.json

The checkpoint is chosen by CIDEr-D on 1,000 photos of `val`; the table at the end is of `test`: CIDEr-D, BLEU and
ROUGE-L of the best of five beams. The last command writes what COCO's evaluation server takes.

`--config.decoder.reads=fused` lets the decoder read both towers after they met, the text tower with an empty text. The
paper says nothing of how its decoder is trained: 10 epochs at 1e-4, label smoothing 0.1 and dropout 0.1 are those of
the captioning literature (Cornia et al. 2020 and others), without self-critical training.
"""

import ml_collections

from configs import coco, common


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    common.caption_decoder(config, "base", layers=6)
    config.stages = dict(
        task=common.stage(
            steps=common.epochs(10, coco.TRAIN_PHOTOS, coco.BATCH_SIZE),
            batch_size=coco.BATCH_SIZE,
            losses=("caption",),
            train=common.DECODER,
            learning_rate=1e-4,
        ),
    )
    config.stage_order = ("task",)
    del config.evals.retrieval
    config.evals.caption.splits = ("test",)
    return config
