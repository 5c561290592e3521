"""Flickr30k, Karpathy split, with the towers, bridge and stages of configs/coco.py over its 29,000 training photos.

    hf download google-bert/bert-base-uncased vocab.txt --local-dir=data/bert-base-uncased
    python -m tools.prepare_data --dataset=flickr30k --raw_dir=DIR --data_dir=data
    python -m bridge_jax.main --config=configs/flickr30k.py --workdir=runs/flickr30k
    python -m tools.evaluate --workdir=runs/flickr30k --split=test --rerank

`DIR` holds `flickr30k-images/` and Karpathy's `dataset_flickr30k.json`. The table at the end is for the
1,000 test photos.

To start from the best checkpoint of a COCO run, give its workdir. Its bridge and heads are trained already, so you may
leave out the stage that trains only those:

    python -m bridge_jax.main --config=configs/flickr30k.py --workdir=runs/flickr30k_from_coco \
        --config.init_from=runs/coco --config.stage_order="('align', 'task')"
"""

import ml_collections

from configs import coco

TRAIN_PHOTOS = 29_000


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.dataset = "flickr30k"
    config.stages = coco.stages(TRAIN_PHOTOS)
    config.evals.retrieval.folds = 1
    return config
