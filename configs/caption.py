"""Caption COCO, from a run of configs/coco.py: a causal decoder of 6 blocks reads the frozen image tower.

    python -m bridge_jax.main --config=configs/caption.py --workdir=runs/caption --config.init_from=runs/coco
    python -m tools.evaluate --workdir=runs/caption --split=test
    python -m tools.evaluate --workdir=runs/caption --split=test --results=captions_test.json

CIDEr-D on 1,000 photos of `val` chooses the checkpoint. The table at the end is for `test`: CIDEr-D, BLEU and ROUGE-L
of the best of five beams. The last command writes a file for COCO's evaluation server.

`--config.decoder.reads=fused` lets the decoder read both towers after the bridge, the text tower with an empty text.
The paper does not describe the training of its decoder. 10 epochs at 1e-4, label smoothing 0.1 and dropout 0.1 come
from the captioning literature (Cornia et al. 2020 and others), without self-critical training.
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
