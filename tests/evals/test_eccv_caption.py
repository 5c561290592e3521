"""ECCV Caption and CxC: the package's own numbers on example rankings, and an evaluation of COCO's photos by both."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.evals import eccv_caption as evaluator
from bridge_jax.evals import retrieval
from bridge_jax.evals.scores import eccv_caption as scores
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from configs import common
from tests import process, runs
from tests.data.bad_inputs import encode, picture
from tools import prepare_data

package = pytest.importorskip("eccv_caption")
MEASURES = ("coco_1k_recalls", "coco_5k_recalls", "cxc_recalls", "eccv_r1", "eccv_map_at_r", "eccv_rprecision")


@pytest.fixture
def few(monkeypatch):
    """Make the package know 100 of its photos, 20 of each fold, with their captions; return it, and these photos.

    Its own code takes minutes for all 5,000.
    """
    known = package.Metrics()
    photos = {known.coco_gts["t2i"][caption][0]: None for caption in known.coco_ids.tolist()}
    asked = [photo for photo in photos if photo in known.eccv_gts["i2t"]]
    folds = [set(list(photos)[start : start + 1000]) for start in range(0, 5000, 1000)]
    kept = {photo for fold in folds for photo in [one for one in asked if one in fold][:20]}
    captions = {caption for caption, (photo,) in known.coco_gts["t2i"].items() if photo in kept}
    for gts in (known.coco_gts, known.cxc_gts, known.eccv_gts):
        for side, (queries, candidates) in {"i2t": (kept, captions), "t2i": (captions, kept)}.items():
            here = {query: [one for one in true if one in candidates] for query, true in gts[side].items()}
            gts[side] = {query: true for query, true in here.items() if query in queries and true}
    known.coco_ids = np.array([caption for caption in known.coco_ids.tolist() if caption in captions])
    monkeypatch.setattr(package, "Metrics", lambda: copy.deepcopy(known))
    scores.truth.cache_clear()
    yield known, [photo for photo in photos if photo in kept]
    scores.truth.cache_clear()


def similar(photos, *, captions=5):
    """Return scores [texts,images] that favour the own photo a little, and the photo of each text."""
    draw, owners = np.random.default_rng(0), np.repeat(photos, captions)
    images = draw.normal(size=(len(photos), 8))
    return (np.repeat(images, captions, 0) + draw.normal(size=(len(owners), 8))) @ images.T, owners


def measured(matrix, owners, photos):
    return scores.measures(matrix, matrix.T, owners, np.array(photos), samples=20, seed=0)


def test_the_numbers_are_the_packages_own(few):
    known, photos = few
    assert [list(scores.truth().fold.values()).count(fold) for fold in range(5)] == [20] * 5
    matrix, owners = similar(photos)
    found = measured(matrix, owners, photos)
    captions = [caption for photo in photos for caption in sorted(known.coco_gts["i2t"][photo])]
    by_text = {c: [photos[i] for i in np.argsort(-row)] for c, row in zip(captions, matrix, strict=True)}
    by_image = {p: [captions[i] for i in np.argsort(-row)] for p, row in zip(photos, matrix.T, strict=True)}
    expected = known.compute_all_metrics(by_image, by_text, target_metrics=MEASURES, Ks=(1, 5, 10))
    assert set(expected) == set(scores.MEASURES)
    for name, sides in expected.items():
        for direction, side in scores.SIDES.items():
            value = found[f"{direction}/{name}"]
            assert value == pytest.approx(100 * sides[side], abs=1e-9), name
            assert found[f"{direction}/{name}_low"] <= value <= found[f"{direction}/{name}_high"]
    ours = retrieval.recall.retrieval(matrix, owners, np.array(photos))  # COCO's own recalls are ours too
    assert ours["text_to_image/r@5"] == pytest.approx(found["text_to_image/coco_5k_r5"])
    assert 0 < found["image_to_text/cxc_r1"] < 100
    assert found["text_to_image/eccv_map_at_r"] < found["text_to_image/eccv_r1"] < 100


def test_a_sixth_caption_is_no_candidate_and_a_missing_photo_no_query(few):
    _, photos = few
    matrix, owners = similar(photos)
    six = np.insert(matrix, 5, 100.0, axis=0)  # the first photo has a sixth caption, which fits everything
    assert measured(six, np.insert(owners, 5, photos[0]), photos) == measured(matrix, owners, photos)
    fewer = measured(matrix[5:, 1:], owners[5:], photos[1:])
    assert fewer["text_to_image/coco_5k_r1"] != measured(matrix, owners, photos)["text_to_image/coco_5k_r1"]
    with pytest.raises(ConfigError, match=r"3 of them are missing and 1 others are there \(such as 7\); prepare the"):
        measured(matrix[10:], owners[10:], [7, *photos[3:]])
    with pytest.raises(ConfigError, match=rf"1 photos have fewer than 5 captions \(such as {photos[0]}\), so"):
        measured(matrix[1:], owners[1:], photos)
    matrix[3, 4] = np.nan
    with pytest.raises(FloatingPointError, match="a score is NaN"):
        measured(matrix, owners, photos)


def write(raw, photos, captions):
    """Write a folder of COCO with these photos as its test split."""
    (raw / "val2014").mkdir(parents=True)
    entries = []
    for number, photo in enumerate(photos):
        name = f"COCO_val2014_{photo:012d}.jpg"
        (raw / "val2014" / name).write_bytes(encode(picture(seed=number), "JPEG"))
        said = [{"raw": f"a {word} of {number}"} for word in ("red", "blue", "large", "small", "left")[:captions]]
        entry = {"filename": name, "filepath": "val2014", "imgid": number, "cocoid": photo, "split": "test"}
        entries.append(entry | {"sentences": said})
    (raw / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    return raw


def experiment(tiny, data_dir):
    settings = tiny()
    (vocabulary,) = Path(settings.data.data_dir).rglob(prepared.VOCABULARY)
    settings.data.update(dataset="coco", data_dir=str(data_dir), vocabulary=str(vocabulary), eval_split="test")
    settings.evals.retrieval.rerank_weight = 0.5
    settings.evals.eccv_caption = common.eccv_caption(rerank_top_k=8, bootstrap_samples=20)
    return config.parse(settings)


def test_a_checkpoint_is_scored_unimodal_and_reranked(few, tiny, tmp_path, monkeypatch):
    _, photos = few
    prepare_data.prepare("coco", str(tmp_path / "data"), raw_dir=str(write(tmp_path / "raw", photos, captions=5)))
    cfg = experiment(tiny, tmp_path / "data")
    evaluator.Evaluator.check(cfg)
    judged, measures = [], scores.measures
    monkeypatch.setattr(scores, "measures", lambda *given, **more: judged.append(given) or measures(*given, **more))
    predict, params = build_predict(cfg, sharding.make_mesh(cfg.mesh), "retrieval"), runs.opened(cfg, "heads")
    metrics = evaluator.Evaluator(cfg, predict).final(params, "test", lambda *_: None)
    (unimodal, _, owners, ids), (reranked, _, _, _) = judged
    assert ids.tolist() == photos
    assert owners.tolist() == np.repeat(photos, 5).tolist()
    before, after = (np.argsort(-matrix, axis=1)[:, :8] for matrix in (unimodal, reranked))
    assert (before != after).any()
    np.testing.assert_array_equal(np.sort(before), np.sort(after))  # the bridge has looked at the best 8
    for score, matrix in (("unimodal", unimodal), ("rerank", reranked)):
        expected = retrieval.recall.retrieval(matrix, owners, ids)["text_to_image/r@5"]
        assert metrics[f"eccv_caption_{score}/text_to_image/coco_5k_r5"] == pytest.approx(expected)
    rows = evaluator.Evaluator.table(metrics).rows
    assert [row[:2] for row in rows] == [(name, score) for name in scores.MEASURES for score in evaluator.SCORES]


def test_other_photos_are_refused_by_the_command(tiny, tmp_path):
    runs.saved(config.parse(tiny()), tmp_path / "run")
    (vocabulary,) = Path(tiny().data.data_dir).rglob(prepared.VOCABULARY)
    prepare_data.prepare("coco", str(tmp_path / "data"), raw_dir=str(write(tmp_path / "raw", range(3), captions=5)))
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}", f"--vocabulary={vocabulary}"]
    given = ["--config=configs/eccv_caption.py", "--evaluator=eccv_caption"]
    done = process.run("tools.evaluate", *flags, *given, "--split=test")
    assert done.returncode == 2
    assert re.search(r"expected the 5,000 test photos of COCO by Karpathy's split; 5,000 of them are", done.stderr)
