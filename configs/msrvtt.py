"""Evaluate on MSR-VTT: text to video and back on the 1k-A test, by a model that was trained on photos.

    python -m tools.prepare_data --dataset=msrvtt --raw_dir=DIR --data_dir=data
    python -m tools.evaluate --workdir=runs/coco --config=configs/msrvtt.py --split=test --rerank

`DIR` holds `MSRVTT_JSFUSION_test.csv` (or `MSRVTT_data.json`, whose 2,990 test videos become the split `test_full`) and
the frames of every video, `frames/<video_id>/*.jpg`. The preparation keeps 12 of them (`--num_frames`), evenly spaced.

The checkpoint decides the model, its vocabulary and the view of a picture, whichever config trained it. From this
config `tools.evaluate` takes `data.dataset`, `data.data_dir`, `data.eval_split` and the evaluator. The other keys, from
configs/coco.py, complete the config. The lower states of 12 frames of 1,000 videos take 3.6 GB of memory in bfloat16,
twice that in float32.
"""

import ml_collections

from configs import coco


def get_config() -> ml_collections.ConfigDict:
    config = coco.get_config()
    config.data.update(dataset="msrvtt", eval_split="test")
    # 16 pairs are 192 pictures; no folds, since a video left out would make them unequal
    config.evals.retrieval.update(batch_size=16, splits=("test",), folds=1)
    return config
