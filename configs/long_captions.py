"""Retrieval by long captions: train on DOCCI with a text tower of 512 tokens, and evaluate on DOCCI, DCI and Urban1k.

    python -m tools.prepare_data --dataset=docci --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/long_captions.py --workdir=runs/long_captions
    python -m tools.evaluate --workdir=runs/long_captions --split=test --rerank
    python -m tools.evaluate --workdir=runs/long_captions --config=configs/long_captions.py:data=urban1k --split=test \
        --rerank

`data` is docci, dci or urban1k; docs/data.md says what `DIR` holds. The towers, bridge and stages are those of
configs/coco.py, whose BERT has 512 positions. Urban1k has no split to train on. Of `dci`, `--split=full` scores all
photos, as LoTLIP does.

A run of configs/coco.py reads 30 tokens, and is refused here. No run of another `config.text.length` can be the start
of this one (`config.init_from`): the bridge has a position bias for each token. The lower states of the 5,000 captions
of DOCCI's `test` take 3.9 GB of memory in bfloat16 with --rerank.
"""

import ml_collections

from configs import coco

TRAIN_PHOTOS = 9_647  # of DOCCI
HELD_OUT = {"docci": "qual_dev", "dci": "valid", "urban1k": "test"}  # the split that chooses the checkpoint


def get_config(data: str = "data=docci") -> ml_collections.ConfigDict:
    """Return the experiment on "data=docci", "data=dci" or "data=urban1k"."""
    name = data.removeprefix("data=")
    if name not in HELD_OUT:
        raise ValueError(f"configs/long_captions.py:{data}: expected data= and one of {', '.join(HELD_OUT)}")
    config = coco.get_config()
    config.text.length = 512
    config.data.update(dataset=name, eval_split=HELD_OUT[name])
    config.stages = coco.stages(TRAIN_PHOTOS)
    config.evals.retrieval.update(batch_size=32, splits=("test",), folds=1)
    return config
