"""Train SNLI-VE from the towers of configs/coco.py, or from a run of it: does a photo entail or contradict a statement?

    hf download google-bert/bert-base-uncased vocab.txt --local-dir=data/bert-base-uncased
    python -m tools.prepare_data --dataset=snli_ve --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/snli_ve.py --workdir=runs/snli_ve --config.init_from=runs/coco
    python -m tools.evaluate --workdir=runs/snli_ve --split=test --json=snli_ve_test.json

`DIR` holds the official `snli_ve_train.jsonl`, `snli_ve_dev.jsonl` and `snli_ve_test.jsonl`, and Flickr30k's photos in
`flickr30k-images/`. All of `dev` chooses the checkpoint. The table at the end is for `dev` and `test`.

The paper has no such task. The stages are those of configs/nlvr2.py with half its epochs over the statements: 0.5 with
the towers frozen but for their top 4 blocks, and 4.5 with all open (ALBEF: 5).
"""

import ml_collections

from configs import coco, common

TRAIN_STATEMENTS = 529_527


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="snli_ve", eval_split="dev", squash=True, flip=True)
    config.losses = dict(snli_ve=dict(weight=1.0))
    steps = tuple(common.epochs(count, TRAIN_STATEMENTS, coco.BATCH_SIZE) for count in (0.5, 4.5))
    config.stages = common.fine_tuning("snli_ve", steps, coco.BATCH_SIZE)
    config.stage_order = ("align", "task")
    del config.evals.retrieval
    config.evals.snli_ve = common.asking(splits=("dev", "test"))
    return config
