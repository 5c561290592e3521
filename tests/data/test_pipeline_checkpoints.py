"""grain's own check on every pipeline of configs/: an iterator restored anywhere goes on with the same elements."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from grain.experimental import LimitIterDataset, assert_equal_output_after_checkpoint

from bridge_jax import config
from bridge_jax.data import pipeline, prepared
from bridge_jax.data.stored_rows import StoredRows
from bridge_jax.run import lower_cache
from tests.data import bad_inputs, test_nlvr2, test_vqav2
from tools import prepare_data

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).resolve().parents[2] / "configs").glob("*.py")
    if path.stem not in ("__init__", "common")
)
PIPELINES = [
    (name, stage) for name in CONFIGS for stage in importlib.import_module(f"configs.{name}").get_config().stage_order
]
PHOTOS, BATCH, STEPS = 24, 8, 4  # the last batches are of the second epoch


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Records as every set of photos has them, some of them broken. COCO's and Flickr30k's own are not here."""
    folder = tmp_path_factory.mktemp("photos")
    names = {name: bad_inputs.BROKEN[name] for name in ("truncated_half.jpg", "caption_latin1.jpg")}
    bad_inputs.prepare_unchecked(folder / "data", bad_inputs.raw_folder(folder / "raw", PHOTOS - len(names), names))
    settings = importlib.import_module("configs.flickr8k").get_config()
    settings.data.data_dir = str(folder / "data")
    return pipeline.open_split(config.parse(settings).data, "train")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with VQA v2, prepared: two questions to every photo."""
    folder = tmp_path_factory.mktemp("asked")
    questions = [(i, i // 2, "Is it red?") for i in range(2 * PHOTOS)]
    test_vqav2.write(
        folder, "train2014", questions, {i: ("yes/no", [("yes", "no")[i % 2]] * 10) for i, *_ in questions}
    )
    prepare_data.prepare("vqav2", str(folder), raw_dir=str(folder), **test_vqav2.SETTINGS)
    return folder


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    """A folder with NLVR2, NLVR and SNLI-VE, prepared: a statement to every pair, and to every picture."""
    folder = tmp_path_factory.mktemp("stated")
    test_nlvr2.write(folder, lines=test_nlvr2.many(PHOTOS))
    lines = [
        {"identifier": f"{n}-0", "sentence": "A dog.", "label": "true",
         "image": f"images/train/42/train-{n}-0-img0.png"} for n in range(PHOTOS)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "flickr30k-images").mkdir()
    for n in range(PHOTOS):
        picture = folder / "images" / "train" / "42" / f"train-{n}-0-img0.png"
        (folder / "flickr30k-images" / f"{n}.jpg").symlink_to(picture)
    for split in ("train", "dev", "test"):
        lines = [
            {"Flickr30K_ID": n, "pairID": n, "sentence2": "A dog.", "gold_label": "neutral"} for n in range(PHOTOS)
        ]
        (folder / f"snli_ve_{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("nlvr2", "nlvr", "snli_ve"):
        prepare_data.prepare(name, str(folder), raw_dir=str(folder))
    return folder


def cached(folder: Path, crops: int, length: int) -> lower_cache.LowerCache:
    """A cache of random states; its tenth photo is broken."""
    draw = np.random.default_rng(0)
    for file, shape in (("image.npy", (PHOTOS, crops, 3, 4)), ("text.npy", (2 * PHOTOS, length, 4))):
        np.save(folder / file, draw.normal(size=shape).astype(np.float16))
    return lower_cache.LowerCache(
        image=StoredRows.open(folder / "image.npy"),
        text=StoredRows.open(folder / "text.npy"),
        text_mask=np.ones((2 * PHOTOS, length), bool),
        ids=None,
        captions=np.arange(2 * PHOTOS).reshape(PHOTOS, 2),
        weights=[None] * PHOTOS,
        first=2 * np.arange(PHOTOS),
        image_ids=np.arange(PHOTOS, dtype=np.int32),
        broken=np.arange(PHOTOS) == 9,
        faults={7: "an empty caption"},
        kinds=["caption"] * 2 * PHOTOS,
        wrong=(),
        draw_wrong=None,
    )


@pytest.mark.parametrize(("name", "stage_name"), PIPELINES)
def test_an_iterator_restored_anywhere_goes_on_alike(name, stage_name, photos, small_shapes, asked, stated, tmp_path):
    settings = importlib.import_module(f"configs.{name}").get_config()
    settings.data.vocabulary = str(next(small_shapes.rglob(prepared.VOCABULARY)))
    own = {"shapes": small_shapes, "vqav2": asked} | dict.fromkeys(("nlvr2", "nlvr", "snli_ve"), stated)
    folder = own.get(settings.data.dataset)
    # Every iterator starts its processes, which takes seconds; flickr30k reads as coco does.
    settings.data.update(data_dir=str(folder), workers=int(name == "coco"), threads=2)
    if name == "vqav2":
        settings.losses.vqa.answers = 2
    cfg = config.parse(settings)
    stage = dataclasses.replace(cfg.stages[stage_name], batch_size=BATCH)
    records = pipeline.open_split(cfg.data, "train") if folder else photos
    make = cached(tmp_path, stage.cached_crops, cfg.text.length) if stage.cached_crops else None
    if make is not None:
        records = photos  # of the length of the cache
    ds = pipeline.train(cfg, stage, seed_stream=stage_name, records=records, make_example=make)
    ahead = pipeline.read_ahead(ds, 1, cfg.data).map(vars)  # NumPy compares dictionaries, not our records
    assert_equal_output_after_checkpoint(LimitIterDataset(ahead, 2 if cfg.data.workers else STEPS))
