"""MSR-VTT, evaluation only: text to video and back on the 1k-A test, by a model that was trained on photos.

    python -m tools.prepare_data --dataset=msrvtt --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/msrvtt.py --split=test --rerank

`DIR` holds `MSRVTT_JSFUSION_test.csv` (or `MSRVTT_data.json`, whose 2,990 test videos become the split `test_full`) and
the frames of every video, `frames/<video_id>/*.jpg`, of which the preparation keeps 12 (`--num_frames`), evenly spaced.

The model, its vocabulary and how it sees a picture are the checkpoint's, whatever it was trained by. Of this config
`data.dataset`, `data.data_dir` and `evals` count; the rest, configs/coco.py's, is there because a config is whole. The
lower states of 12 frames of 1,000 videos take 3.6 GB of memory in bfloat16, twice that in float32.
"""

import ml_collections

from configs import coco


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="msrvtt", eval_split="test")
    # 16 pairs are 192 pictures; no folds, since a video that is left out would make them unequal
    config.evals.retrieval.update(batch_size=16, splits=("test",), folds=1)
    return config
