"""Evaluate a run on zero-shot classification: photos in a folder for each class, or the tars of CLIP_benchmark.

    python -m tools.prepare_data --dataset=imagefolder --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/zero_shot.py --evaluator=zero_shot --split=test

docs/data.md says what `DIR` holds. The checkpoint decides model and vocabulary. From this config `tools.evaluate` takes
the data set and `config.evals.zero_shot`. There is no split to train on.
"""

import ml_collections

from configs import coco, common


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="imagefolder", eval_split="test")
    config.evals.retrieval.splits = ()
    config.evals.zero_shot = common.zero_shot()
    return config
