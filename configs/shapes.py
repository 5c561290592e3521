"""The embedded data set: coloured shapes. From nothing to a recall table on a laptop's CPU in five minutes.

    bash launch/local.sh

There are no pretrained towers to stabilise, so the first stage trains both from random weights on the unimodal loss.
The second freezes what lies below the bridge and reads it from the cache; a scene and its mirror image share a batch
from here on, under captions that tell them apart, so that mined partners may differ in nothing but the relation. The
third opens everything.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.base()
    config.vision = common.vit("tiny", patch_px=16, image_px=64)
    config.text = common.bert("tiny", length=16, vocab_size=64, max_positions=32, dropout=0.0)
    config.bridge.update(
        placement="middle",
        layers=2,
        shared_width=128,
        heads=4,
        embed_width=64,
        gate_start=0.27,
        attention_dropout=0.0,
        output_dropout=0.0,
        match_threshold_start=0.95,  # towers trained from random weights put true pairs at a cosine of 0.98
    )
    config.data.update(dataset="shapes", crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    # The semi-hard band of the paper would never pick the mirror image, whose cosine is that of the true pair.
    config.mining.update(partners=1, margin_min=-1.0, margin_max=0.1)
    pairs = dict(batch_size=64, group_examples=2, caption_kinds=("relation", "converse"))
    config.stages = dict(
        stabilise=common.stage(steps=300, losses=("itc",), train=common.EVERYTHING, learning_rate=1e-3),
        align=common.stage(steps=150, **pairs, top_blocks=2, cached_crops=1, learning_rate=5e-4),
        task=common.stage(steps=100, **pairs, train=common.EVERYTHING, learning_rate=3e-4),
    )
    config.stage_order = ("stabilise", "align", "task")
    config.evals.retrieval.update(select_images=0, splits=("val", "val_relations"), rerank_top_k=8)
    return config
