"""Train NLVR2 from the towers of configs/coco.py, or from a run of it: is a statement true of two photographs?

    hf download google-bert/bert-base-uncased vocab.txt --local-dir=data/bert-base-uncased
    python -m tools.prepare_data --dataset=nlvr2 --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/nlvr2.py --workdir=runs/nlvr2 --config.init_from=runs/coco
    python -m tools.evaluate --workdir=runs/nlvr2 --split=test1 --json=nlvr2_test1.json
    python -m tools.evaluate --workdir=runs/nlvr2 --split=test1 --results=nlvr2_test1.csv

`DIR` holds the official `train.json`, `dev.json` and `test1.json`, and the photos as `images/train/42/*.png`,
`images/dev/*.png` and `images/test1/*.png`. All of `dev` chooses the checkpoint. The table at the end is for `dev` and
`test1` (test-P), with the consistency. The last command writes a file for the official metrics.py.

Photos are squashed to the square and not cropped: a statement may count objects at an edge. The paper does not say how
long it trains. Here it takes two stages: 1 epoch with the towers frozen but for their top 4 blocks, and 9 with all
open. An epoch shows every pair once, with one of its statements.
"""

import ml_collections

from configs import coco, common

TRAIN_STATEMENTS = 86_373  # at most two for each pair


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="nlvr2", eval_split="dev", squash=True)
    config.losses = dict(nlvr2=dict(weight=1.0, pictures=2))
    steps = tuple(common.epochs(count, TRAIN_STATEMENTS, coco.BATCH_SIZE) for count in (1, 9))
    config.stages = common.fine_tuning("nlvr2", steps, coco.BATCH_SIZE)
    config.stage_order = ("align", "task")
    del config.evals.retrieval
    config.evals.nlvr2 = common.asking(splits=("dev", "test1"))
    return config
