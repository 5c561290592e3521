"""Train NLVR from DINOv2-small and MiniLM-L6 on two CPU cores: is a statement true of a drawn picture of three boxes?

    hf download sentence-transformers/all-MiniLM-L6-v2 vocab.txt --local-dir=data/minilm
    python -m tools.prepare_data --dataset=nlvr --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/nlvr.py --workdir=runs/nlvr \
        --config.data.vocabulary=data/minilm/vocab.txt

`DIR` holds `train.jsonl` and `dev.jsonl`, whose lines name their pictures. To read towers from disk, add
`--config.vision.pretrained=FOLDER` and `--config.text.pretrained=FOLDER`. The pictures, 400 x 100 pixels, are squashed
to the square, because their centre square would show only one box of the three.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.base()
    config.vision = common.dinov2("small", image_px=112, pretrained="facebook/dinov2-small")
    config.text = common.minilm(length=32, pretrained="sentence-transformers/all-MiniLM-L6-v2")
    config.bridge.update(layers=2, shared_width=256, heads=4, gate_start=0.27, output_dropout=0.2)
    config.data.update(dataset="nlvr", eval_split="dev", squash=True, flip=True)
    config.losses = dict(nlvr2=dict(weight=1.0, pictures=1))
    config.stages = dict(
        task=common.stage(
            steps=200,
            batch_size=32,
            losses=("nlvr2",),
            top_blocks=2,
            learning_rate=1e-4,
            lr_factors=common.lr_factors(new=5.0, scalars=20.0),
        )
    )
    config.stage_order = ("task",)
    del config.evals.retrieval
    config.evals.nlvr2 = common.asking(every_steps=50, batch_size=50, splits=("dev",))
    config.checkpoint.every_steps = 50
    return config
