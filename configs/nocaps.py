"""Evaluate a run of configs/caption.py on nocaps: photos of objects that COCO's captions, its training, do not name.

    python -m tools.prepare_data --dataset=nocaps --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val --results=nocaps_val.json
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=test --results=nocaps_test.json

`DIR` holds the official `nocaps_val_4500_captions.json` and `val/`; for the last command also
`nocaps_test_image_info.json` and `test/`, whose captions only the server knows. The table has CIDEr-D of all photos and
of each domain (in-domain, near-domain, out-domain). The benchmark prints the same numbers times 100; its SPICE needs
Java and is not computed. The files are in the format of its server.

The checkpoint decides model and vocabulary. From this config `tools.evaluate` takes the data set and
`config.evals.caption`: the best of five beams, as on COCO. There is no split to train on.
"""

import ml_collections

from configs import caption


def get_config() -> ml_collections.ConfigDict:
    config = caption.get_config()
    config.data.dataset = "nocaps"
    config.evals.caption.splits = ("val",)
    return config
