"""Evaluate a run on ECCV Caption and CxC: COCO's test photos, judged by all captions that people found true of them.

    python -m tools.evaluate --workdir=runs/coco --config=configs/eccv_caption.py --evaluator=eccv_caption --split=test

The photos are the 5,000 of `test` that configs/coco.py prepares. The checkpoint decides model and vocabulary. From this
config `tools.evaluate` takes the data set and `config.evals.eccv_caption`. It needs the extra `eccv`.
"""

import ml_collections

from configs import coco, common


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="coco", eval_split="test")
    config.evals.retrieval.splits = ()
    config.evals.eccv_caption = common.eccv_caption()
    return config
