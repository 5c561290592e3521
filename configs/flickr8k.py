"""Flickr8k at 112 px from DINOv2-small and MiniLM-L6: real photos, two CPU cores, at most 90 minutes.

    hf download sentence-transformers/all-MiniLM-L6-v2 vocab.txt --local-dir=data/minilm
    python -m tools.prepare_data --dataset=flickr8k --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/flickr8k.py --workdir=runs/flickr8k \
        --config.data.vocabulary=data/minilm/vocab.txt

`DIR` holds `images/` and Karpathy's `dataset_flickr8k.json`. To read towers from disk, add
`--config.vision.pretrained=FOLDER` and `--config.text.pretrained=FOLDER`.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.base()
    config.vision = common.dinov2("small", image_px=112, pretrained="facebook/dinov2-small")
    config.text = common.minilm(length=24, pretrained="sentence-transformers/all-MiniLM-L6-v2")
    config.bridge.update(layers=2, shared_width=256, heads=4, gate_start=0.27, output_dropout=0.2)
    config.data.update(dataset="flickr8k", crop_area=(0.6, 1.0))
    # A reranker scores the top of the unimodal order; the paper's band, 0.2 to 0.5 below the true pair, excludes it.
    config.mining.update(partners=1, margin_min=-1.0, margin_max=0.1)
    # The fused losses see a few pairs of every text: too few here for a reranker to learn more than the towers know.
    config.losses.token_itc = dict(weight=1.0, group=64)
    config.stages = dict(
        stabilise=common.stage(
            steps=500, batch_size=256, losses=("itc", "token_itc"), learning_rate=1e-3, cached_crops=4
        ),
        align=common.stage(
            steps=600,
            losses=("itc", "token_itc", "fused_itc", "itm", "cycle"),
            top_blocks=1,
            learning_rate=2e-4,
            lr_factors=common.lr_factors(new=2.0, scalars=20.0),
            weight_decay=0.3,
            cached_crops=4,
        ),
    )
    config.stage_order = ("stabilise", "align")
    config.evals.retrieval.every_steps = 100
    config.checkpoint.every_steps = 100
    return config
