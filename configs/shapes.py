"""The embedded data set: coloured shapes. From nothing to a recall table on a laptop's CPU in five minutes.

bash launch/local.sh
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.base()
    config.vision = common.vit("tiny", patch_px=8, image_px=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    config.text = common.bert("tiny", length=24, vocab_size=128, max_positions=32, dropout=0.0)
    config.bridge.update(layers=2, shared_width=128, heads=4, embed_width=128)
    config.data.update(dataset="shapes", crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False, group_examples=2)
    config.stages = dict(
        stabilise=common.stage(steps=50),
        align=common.stage(steps=400, top_blocks=2),
        task=common.stage(steps=400, train=common.EVERYTHING),
    )
    config.stage_order = ("stabilise", "align", "task")
    config.evals.retrieval.update(every_steps=200, select_images=0, splits=("val", "val_relations"))
    return config
