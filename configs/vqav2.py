"""Train VQA v2 from the towers of configs/coco.py, or from a run of it: questions about COCO's photos, 3,129 answers.

    hf download google-bert/bert-base-uncased vocab.txt --local-dir=data/bert-base-uncased
    python -m tools.prepare_data --dataset=vqav2 --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/vqav2.py --workdir=runs/vqav2 --config.init_from=runs/coco
    python -m tools.evaluate --workdir=runs/vqav2 --split=test --results=vqav2_test.json

`DIR` holds the official question and annotation files and the photos in `train2014/`, `val2014/` and `test2015/`. 2,000
photos of `val` (about 10,000 questions) choose the checkpoint. The table at the end is for all of `val`, by answer
type. The last command writes a file for the evaluation server.

The paper does not say how long it trains. Here it takes two stages: 1 epoch with the towers frozen but for their top 4
blocks, and 9 with all open. An epoch shows every photo once, with one of its 5.4 questions.

With `--config=configs/vqav2.py:form=generative` a decoder of 6 blocks writes the answers instead of the classifier. It
reads photo and question after the bridge, and returns the likeliest of the 3,129 answers.
"""

import ml_collections

from configs import coco, common

TRAIN_PHOTOS = 82_783


def get_config(form: str = "form=classifier") -> ml_collections.ConfigDict:
    """Return the experiment of "form=classifier" or "form=generative"."""
    if form not in ("form=classifier", "form=generative"):
        raise ValueError(f"configs/vqav2.py:{form}: expected form= and one of classifier, generative")
    config = coco.get_config()
    config.data.update(dataset="vqav2", flip=True)
    config.losses = dict(vqa=dict(weight=1.0, answers=3129))
    steps = tuple(common.epochs(count, TRAIN_PHOTOS, coco.BATCH_SIZE) for count in (1, 9))
    config.stages = common.fine_tuning("vqa", steps, coco.BATCH_SIZE)
    config.stage_order = ("align", "task")
    del config.evals.retrieval
    config.evals.vqa = common.asking(splits=("val",), select_images=2000)
    return generative(config) if form == "form=generative" else config


def generative(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Let a decoder answer. It is new, so it trains from the first stage on, at the rate of new parameters."""
    common.decoder(config, "base", layers=6)
    config.losses = dict(vqa_generative=dict(weight=1.0))
    for stage in config.stages.values():
        stage.losses = ("vqa_generative",)
        stage.lr_factors = (("decoder/.*", 10.0), *stage.lr_factors)
    config.stages.align.train = (("decoder/.*", True), *config.stages.align.train)
    return config
