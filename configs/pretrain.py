"""Pre-train on COCO, Visual Genome and Conceptual Captions 3M and 12M, from ViT-B/16 and BERT-base: stages A and B.

    python -m tools.prepare_data --dataset=visual_genome --raw_dir=DIR --data_dir=data --held_out=coco,flickr30k
    python -m tools.prepare_data --dataset=cc3m --raw_dir=DIR --data_dir=data --held_out=coco,flickr30k
    python -m tools.prepare_data --dataset=cc12m --raw_dir=DIR --data_dir=data --held_out=coco,flickr30k
    python -m bridge_jax.main --config=configs/pretrain.py --workdir=runs/pretrain
    python -m bridge_jax.main --config=configs/coco.py --workdir=runs/coco --config.init_from=runs/pretrain

For Visual Genome, `DIR` holds the official `image_data.json`, `region_descriptions.json`, `VG_100K/` and `VG_100K_2/`;
for the others, the tars of img2dataset, or a folder of pictures with `captions.jsonl` (see
bridge_jax/data/datasets/pairs.py). `config.data.mixture` gives the share of each data set, whatever its size.
`--held_out` leaves out the evaluation pictures of COCO and Flickr30k, which must be prepared before: half of Visual
Genome's photos are COCO's. Words and patches are masked too. COCO's `val` chooses the checkpoint.

The paper (docs/method.md 3.3) does not say how many epochs it pre-trains. Here the stages take 1 and 4 epochs, each of
as many pictures as CC3M has.

`configs/pretrain.py:size=small` shows on two CPU cores how much pictures help to predict masked words: with the towers
of configs/flickr8k.py, half Flickr8k and half the embedded shapes, and only the stage `align`.
"""

import ml_collections

from configs import coco, common, flickr8k

EPOCH_PICTURES = 3_300_000
BATCH_SIZE = 1024


def get_config(size: str = "size=base") -> ml_collections.ConfigDict:
    """Return the experiment of "size=base" or "size=small"."""
    known = {"base": base, "small": small}
    name = size.removeprefix("size=")
    if name not in known:
        raise ValueError(f"configs/pretrain.py:{size}: expected size= and one of {', '.join(known)}")
    return known[name]()


def base() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.mixture = (("coco", 0.15), ("visual_genome", 0.15), ("cc3m", 0.25), ("cc12m", 0.45))
    config.vision.mask_token = True
    config.losses.mlm = dict(weight=1.0, mask_fraction=0.15)
    config.losses.mim = dict(weight=0.1, target="features", mask_fraction=0.4)
    config.mining.group = 64

    def stage(epochs: float, **changes) -> ml_collections.ConfigDict:
        return common.stage(
            steps=common.epochs(epochs, EPOCH_PICTURES, BATCH_SIZE),
            batch_size=BATCH_SIZE,
            losses=("itc", "fused_itc", "itm", "cycle", "mlm", "mim"),
            lr_factors=common.lr_factors(new=10.0, scalars=20.0),
            **changes,
        )

    config.stages = dict(stabilise=stage(1, learning_rate=1e-4), align=stage(4, learning_rate=5e-5, top_blocks=4))
    config.stage_order = ("stabilise", "align")
    config.evals.retrieval.splits = ("val",)
    config.evals.mlm = common.mlm()
    return config


def small() -> ml_collections.ConfigDict:
    config = flickr8k.get_config()
    config.data.mixture = (("flickr8k", 0.5), ("shapes", 0.5))
    config.losses.mlm = dict(weight=1.0, mask_fraction=0.3)
    config.stages = dict(
        align=common.stage(
            steps=400,
            batch_size=64,
            losses=("mlm",),
            top_blocks=2,
            learning_rate=2e-4,
            lr_factors=common.lr_factors(new=5.0, scalars=20.0),
        )
    )
    config.stage_order = ("align",)
    config.evals.retrieval.update(every_steps=400, splits=())  # once, at the last step: recall is not trained
    config.evals.mlm = common.mlm()
    return config
