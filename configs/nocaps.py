"""nocaps, what COCO's captions do not name: evaluation only, of a run of configs/caption.py that saw captions of COCO.

    python -m tools.prepare_data --dataset=nocaps --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val --results=nocaps_val.json
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=test --results=nocaps_test.json

`DIR` holds the official `nocaps_val_4500_captions.json` and `val/`, and for the last command, since only the server
knows the captions, `nocaps_test_image_info.json` and `test/`. The table has CIDEr-D of all photos and of each domain
(in-domain, near-domain, out-domain), as the benchmark prints them but for the scale (times 100 there); its SPICE needs
Java and is not here. The files are what its server takes.

Model and vocabulary are those of the checkpoint; of this config `tools.evaluate` takes the data set and
`config.evals.caption`: the best of five beams, as on COCO. There is no split to train on.
"""

import ml_collections

from configs import caption


def get_config() -> ml_collections.ConfigDict:
    config = caption.get_config()
    config.data.dataset = "nocaps"
    config.evals.caption.splits = ("val",)
    return config
