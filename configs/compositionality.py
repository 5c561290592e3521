"""Evaluate a run on benchmarks of compositionality: is a caption told from one that is wrong in a detail?

    python -m tools.prepare_data --dataset=sugarcrepe --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/compositionality.py --evaluator=compositionality \
        --split=test
    python -m tools.prepare_data --dataset=winoground --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/compositionality.py:data=winoground \
        --evaluator=compositionality --split=test

`data` is sugarcrepe, sugarcrepe_pp, valse, whatsup, winoground or bivlc; docs/data.md says what `DIR` holds. The
checkpoint decides model and vocabulary. From this config `tools.evaluate` takes the data set and
`config.evals.compositionality`. There is no split to train on.
"""

import ml_collections

from configs import coco, common

DATA = ("sugarcrepe", "sugarcrepe_pp", "valse", "whatsup", "winoground", "bivlc")


def get_config(data: str = "data=sugarcrepe") -> ml_collections.ConfigDict:
    """Return the experiment on "data=" and one of `DATA`."""
    name = data.removeprefix("data=")
    if name not in DATA:
        raise ValueError(f"configs/compositionality.py:{data}: expected data= and one of {', '.join(DATA)}")
    config = coco.get_config()
    config.data.update(dataset=name, eval_split="test")
    config.evals.retrieval.splits = ()
    config.evals.compositionality = common.asking(splits=("test",))
    return config
