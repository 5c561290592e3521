"""Evaluate a run of image-text retrieval on SugarCrepe or SugarCrepe++: captions beside wrong ones that differ little.

    python -m tools.prepare_data --dataset=sugarcrepe --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/sugarcrepe.py --evaluator=sugarcrepe --split=test
    python -m tools.prepare_data --dataset=sugarcrepe_pp --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/sugarcrepe.py:data=sugarcrepe_pp \
        --evaluator=sugarcrepe --split=test

`DIR` holds the official files in `sugarcrepe/` or `sugarcrepe_pp/`, and COCO's photos in `val2017/`. The checkpoint
decides model and vocabulary. From this config `tools.evaluate` takes the data set and `config.evals.sugarcrepe`. There
is no split to train on.
"""

import ml_collections

from configs import coco, common

DATA = ("sugarcrepe", "sugarcrepe_pp")


def get_config(data: str = "data=sugarcrepe") -> ml_collections.ConfigDict:
    """Return the experiment on "data=sugarcrepe" or "data=sugarcrepe_pp"."""
    name = data.removeprefix("data=")
    if name not in DATA:
        raise ValueError(f"configs/sugarcrepe.py:{data}: expected data= and one of {', '.join(DATA)}")
    config = coco.get_config()
    config.data.update(dataset=name, eval_split="test")
    config.evals.retrieval.splits = ()
    config.evals.sugarcrepe = common.asking(splits=("test",))
    return config
