"""Your own photos and captions, from a run of configs/flickr8k.py: on two CPU cores (docs/own_photos.md).

    python -m tools.prepare_data --dataset=folder --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/own.py --workdir=runs/own
    python -m tools.evaluate --workdir=runs/own --split=test --rerank

`DIR` holds photos with a list of captions, or another of the forms that docs/data.md names. `val` chooses the
checkpoint. `configs/own.py:base=coco` starts from a run of configs/coco.py, whose towers are larger; it needs an
accelerator. The run to start from is `config.init_from`, here `runs/flickr8k` or `runs/coco`.

The text tower learns the words of your captions in its top block, the image tower your pictures in its own; the blocks
below keep what many photos taught them.
"""

import ml_collections

from configs import coco, common, flickr8k

BASES = {
    "flickr8k": (flickr8k, "data/minilm/vocab.txt"),
    "coco": (coco, "data/bert-base-uncased/vocab.txt"),
}


def get_config(base: str = "base=flickr8k") -> ml_collections.ConfigDict:
    """Return the experiment at "base=flickr8k" or "base=coco"."""
    name = base.removeprefix("base=")
    if name not in BASES:
        raise ValueError(f"configs/own.py:{base}: expected base= and one of {', '.join(BASES)}")
    module, vocabulary = BASES[name]
    config = module.get_config()
    config.init_from = f"runs/{name}"
    config.data.update(dataset="folder", vocabulary=vocabulary)
    if "token_itc" in config.losses:
        config.losses.token_itc.group = 0  # the whole batch, which is small
    # A few hundred photos are seen many times: a wider crop, and few steps at a low rate.
    config.data.crop_area = (0.6, 1.0)
    config.stages = dict(
        align=common.stage(
            steps=100,
            batch_size=32,
            losses=tuple(config.losses),
            top_blocks=1,
            learning_rate=1e-4,
            lr_factors=common.lr_factors(new=1.0, scalars=20.0),
            weight_decay=0.3,
            cached_crops=4,
        )
    )
    config.stage_order = ("align",)
    config.evals.retrieval.update(every_steps=20, splits=("test",), folds=1, select_by="rerank", fit_rerank_weight=True)
    config.checkpoint.every_steps = 20
    config.log_every_steps = 10
    return config
