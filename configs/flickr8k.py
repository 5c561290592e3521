"""Flickr8k at 112 px from DINOv2-small and MiniLM-L6: real photos, two CPU cores, at most 90 minutes.

    python -m tools.prepare_data --dataset=flickr8k --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/flickr8k.py --workdir=runs/flickr8k \
        --config.vision.pretrained=facebook/dinov2-small \
        --config.text.pretrained=sentence-transformers/all-MiniLM-L6-v2
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.base()
    config.vision = common.dinov2("small", image_px=112, pretrained="facebook/dinov2-small")
    config.text = common.minilm(length=24, pretrained="sentence-transformers/all-MiniLM-L6-v2")
    config.bridge.update(layers=2, shared_width=384, heads=6, gate_start=0.27, output_dropout=0.2)
    config.data.update(dataset="flickr8k", crop_area=(0.6, 1.0))
    config.stages = dict(
        stabilise=common.stage(steps=400, batch_size=256, losses=("itc",), learning_rate=1e-3, cached_crops=4),
        align=common.stage(steps=1000, batch_size=64, top_blocks=1, learning_rate=1e-4, cached_crops=4),
    )
    config.stage_order = ("stabilise", "align")
    return config
