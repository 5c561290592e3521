"""A trained model and its exports rank a whole split alike, each through its own pipeline: files in, ranks out.

Of another run, on the split by which its checkpoints were chosen or on RANKS_SPLIT=val, and what came out:
RANKS_WORKDIR=runs/flickr8k .venv/bin/python -m pytest -s tests/interop/test_ranks.py
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from bridge_jax import config
from bridge_jax.data import pipeline, records, shapes
from bridge_jax.evals.scores import recall
from bridge_jax.interop import torch_export, torch_onnx
from bridge_jax.run import train
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from configs import common
from tools import prepare_data

pytestmark = pytest.mark.usefixtures("keep_compilation_cache")
SCENES, PAIRS, AT_ONCE = 64, 256, 64


@dataclasses.dataclass(frozen=True)
class Split:
    """What a model makes of a split: rows in record order; `logits` of the pairs of caption i with picture i."""

    images: np.ndarray
    texts: np.ndarray
    image_ids: np.ndarray
    text_ids: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A model trained until its ranks are no draw: two stages of 150 and 20 steps."""
    if "RANKS_WORKDIR" in os.environ:
        return Path(os.environ["RANKS_WORKDIR"])
    data_dir, workdir = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "HELD_OUT_SCENES", SCENES)
        patch.setattr(shapes, "HELD_OUT_PAIRS", 8)
        prepare_data.prepare("shapes", str(data_dir), num_train=256, seed=0)
    settings = tiny(depth=2)
    settings.data.data_dir = str(data_dir)
    quick = dict(batch_size=32, learning_rate=1e-3, train=common.EVERYTHING)
    settings.stages = dict(
        stabilise=common.stage(**quick, steps=150, losses=("itc",)), task=common.stage(**quick, steps=20)
    )
    settings.stage_order = ("stabilise", "task")
    settings.evals.retrieval.every_steps = settings.checkpoint.every_steps = 1000
    train.run(config.parse(settings), str(workdir))
    return workdir


def on_split(cfg: config.Config) -> config.Config:
    """Return the config with the split that this file ranks as its `eval_split`."""
    split = os.environ.get("RANKS_SPLIT", cfg.data.eval_split)
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, eval_split=split))


def ours(saves: Checkpoints, step: int) -> Split:
    cfg = on_split(saves.config(step))
    predict = build_predict(cfg, sharding.make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1)))
    params, size = torch_export.restore(saves, step), cfg.evals["retrieval"].batch_size
    images, texts = [], []
    for pixels, ids, valid in pipeline.images(cfg, cfg.data.eval_split, size):
        lower = predict.lower_image(params, pixels)
        rows = np.asarray(predict.unimodal_image(params, lower)), ids, np.asarray(lower)
        images.append([row[valid] for row in rows])
    for words, mask, ids, _, valid in pipeline.captions(cfg, cfg.data.eval_split, size):
        lower = predict.lower_text(params, words, mask)
        rows = np.asarray(predict.unimodal_text(params, lower, mask)), ids, np.asarray(lower), mask
        texts.append([row[valid] for row in rows])
    image, image_ids, low_image = (np.concatenate(part) for part in zip(*images, strict=True))
    text, text_ids, low_text, masks = (np.concatenate(part) for part in zip(*texts, strict=True))
    logits = []
    for start in range(0, PAIRS, size):
        rows = np.arange(start, start + size)
        lower = Lower(image=low_image[rows % len(image)], text=low_text[rows], text_mask=masks[rows])
        logits.append(predict.fused(params, lower)[1])
    return Split(image, text, image_ids, text_ids, np.concatenate(logits))


def theirs(folder, data: config.Data, dtype: torch.dtype) -> Split:
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    split = list(records.open_split(data, data.eval_split))
    captions = [caption for record in split for caption in record["captions"]]
    inputs = processor(images=[record["image"] for record in split], text=captions)
    pixels, ids, mask = inputs["pixel_values"].to(dtype), inputs["input_ids"], inputs["attention_mask"]
    first = torch.arange(PAIRS) % len(split)
    with torch.no_grad():
        images = [model.get_image_features(part) for part in pixels.split(AT_ONCE)]
        parts = zip(ids.split(AT_ONCE), mask.split(AT_ONCE), strict=True)
        texts = [model.get_text_features(*part) for part in parts]
        rows = torch.arange(PAIRS).split(AT_ONCE)
        logits = [model(pixels[first[part]], ids[part], mask[part]).match_logits for part in rows]
    image_ids = [record["image_id"] for record in split]
    text_ids = [record["image_id"] for record in split for _ in record["captions"]]
    found = [torch.cat(parts).numpy() for parts in (images, texts)]
    return Split(*found, np.array(image_ids), np.array(text_ids), torch.cat(logits).numpy())


def test_every_rank_of_a_trained_model_is_the_same_in_pytorch(run, tmp_path):
    saves = Checkpoints(run, read_only=True)
    step = saves.choose("latest")
    torch_export.export(saves, step, tmp_path / "exported")
    mine, data = ours(saves, step), on_split(saves.config(step)).data
    yours, exact = (theirs(tmp_path / "exported", data, dtype) for dtype in (torch.float32, torch.float64))
    for name, most in (("images", 1e-5), ("texts", 1e-5), ("logits", 1e-4), ("image_ids", 0), ("text_ids", 0)):
        difference = np.abs(getattr(mine, name) - getattr(yours, name)).max()
        print(f"{name}: {len(getattr(mine, name))} rows, largest difference {difference:.1e}")
        assert difference <= most, name

    scores = [split.texts @ split.images.T for split in (mine, yours, exact)]
    apart = max(np.abs(scores[0] - other).max() for other in scores[1:])
    for rows, queries, candidates in (
        (scores, mine.text_ids, mine.image_ids),
        ([score.T for score in scores], mine.image_ids, mine.text_ids),
    ):
        found = [recall.ranks(score, queries, candidates) for score in rows]
        true = queries[:, None] == candidates
        best = np.where(true, rows[0], -np.inf).max(axis=1, keepdims=True)
        # Rounding may order two candidates either way where their scores are nearer to each other than it is great.
        settled = ~((np.abs(rows[0] - best) <= 2 * apart) & ~true).any(axis=1)
        for other, name in zip(found[1:], ("float32", "float64"), strict=True):
            np.testing.assert_array_equal(found[0][settled], other[settled])
            print(f"ranks, PyTorch in {name}: {(found[0] != other).sum()} of {len(queries)} differ")
        print(f"ranks: {(~settled).sum()} of {len(queries)} may differ by rounding")
        assert settled.mean() > 0.95
        assert len(set(found[0])) > 10
    by_text = recall.ranks(scores[0], mine.text_ids, mine.image_ids)
    assert np.median(by_text) < len(mine.image_ids) / 4  # by chance half of them


def onnx_ranks(folder, inputs, image_ids, text_ids):
    """Return direction -> ranks and the photos of the queries, by the embeddings of onnxruntime."""
    found = []
    for graph, names in (("image", ["pixel_values"]), ("text", ["input_ids", "attention_mask"])):
        session = onnxruntime.InferenceSession(folder / f"{graph}_embedding.onnx")
        batches = zip(*(inputs[name].split(AT_ONCE) for name in names), strict=True)
        rows = [session.run(None, dict(zip(names, map(np.asarray, batch), strict=True)))[0] for batch in batches]
        found.append(np.concatenate(rows))
    images, texts = found
    return recall.both_ranks(texts @ images.T, images @ texts.T, text_ids, image_ids)


def test_weights_of_8_bits_find_nearly_as_much(run, tmp_path):
    saves = Checkpoints(run, read_only=True)
    step = saves.choose("latest")
    torch_export.export(saves, step, tmp_path / "exported")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    data = on_split(saves.config(step)).data
    split = list(records.open_split(data, data.eval_split))
    texts = [caption for record in split for caption in record["captions"]]
    inputs = processor(images=[record["image"] for record in split], text=texts)
    image_ids = np.array([record["image_id"] for record in split])
    text_ids = np.array([record["image_id"] for record in split for _ in record["captions"]])
    found = []
    for int8 in (False, True):
        out = tmp_path / ("int8" if int8 else "float32")
        sizes = torch_onnx.export(tmp_path / "exported", out, parts=(), int8=int8)
        print(f"{out.name}: {', '.join(f'{name} {size / 1e6:.1f} MB' for name, size in sizes.items())}", flush=True)
        found.append(onnx_ranks(out, inputs, image_ids, text_ids))
    for direction, (exact, photos) in found[0].items():
        rounded = found[1][direction][0]
        before, after = (recall.summary(ranks)["r@1"] for ranks in (exact, rounded))
        change = recall.paired_bootstrap(rounded, exact, photos, 1000, 0)["r@1"]
        print(f"{direction}: R@1 {before:.2f} in float32, {after:.2f} in 8 bits of {len(exact)} queries", end="")
        print(f", difference {change.value:.2f} [{change.low:.2f}, {change.high:.2f}]", flush=True)
        assert change.value >= -5
