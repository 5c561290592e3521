"""bridge_jax/index/refusal.py and held_out.py: a curve that is known, counts by hand, pairs one by one."""

import dataclasses

import numpy as np
import pytest

from bridge_jax import rng
from bridge_jax.data import image, pipeline
from bridge_jax.index import held_out, query, store
from bridge_jax.index.refusal import Refusal, calibrate, fit


def test_the_curve_is_found_again():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(40_000, 2)) * (3, 20) + (0, 50)
    true = draw.random(len(scores)) < 1 / (1 + np.exp(-(scores @ (1.5, -0.1) + 3)))
    slopes, offset = fit(scores[true], scores[~true])
    assert (*slopes, offset) == pytest.approx((1.5, -0.1, 3), rel=0.05)


def test_pairs_that_never_mix_still_have_a_curve():
    true, wrong = (np.stack([np.linspace(start, start + 4, 50), np.zeros(50)], 1) for start in (5.0, -9.0))
    refusal = calibrate(true, list(wrong[:, None]), 50)
    low, high = refusal.probability(np.array([[-9.0, 0], [9.0, 0]]))
    assert 0 < low < 0.05
    assert 0.95 < high < 1
    assert refusal.false_alarms == 0


def test_nine_in_ten_true_pairs_are_kept():
    true = np.stack([np.arange(20.0), np.zeros(20)], 1)
    wrong = [np.array([[logit, 0.0], [other, 0]]) for logit, other in ((-5, -6), (-4, 1.5), (0.5, 0), (7, 0))]
    refusal = calibrate(true, wrong, 20)
    at_one, at_two = refusal.probability(np.array([[1.0, 0], [2, 0]]))
    assert refusal.threshold == at_one < at_two  # 19 of 20 lie at or above the second least
    assert refusal.false_alarms == 0.5  # the second of a pair counts too


def test_the_scores_are_those_of_each_pair(model):
    found = held_out.pairs(model, "val", lambda *_: None)
    records = pipeline.open_split(model.cfg.data, "val")
    count = len(records)
    assert (len(found.true), found.photos) == (count, count)
    views = [image.eval_view(record["image"], model.cfg.vision.image_px) for record in records]
    embeddings, lower = model.photos(np.stack(views))  # 16 photos are a batch
    draw = np.random.default_rng(rng.stream_seed(model.cfg.seed, "refusal/val"))
    for place, own in enumerate(draw.permutation(count)):
        captions = records[own]["captions"]
        caption = captions[draw.integers(len(captions))]
        asked = model.text(caption)
        scores = np.stack([model.match(asked, np.asarray(lower)), model.scale * embeddings @ asked.embedding], 1)
        wrong = [tuple(scores[i]) for i in range(count) if caption not in records[i]["captions"]]
        np.testing.assert_allclose(found.true[place], scores[own], atol=0.02)  # float16 states
        by_unimodal = [sorted(map(tuple, rows), key=lambda row: row[1]) for rows in (found.wrong[place], wrong)]
        np.testing.assert_allclose(*by_unimodal, atol=0.02)
        first = found.wrong[place] @ (1, model.weight)
        assert first[0] == max(first)


def test_no_photo_matches_below_the_threshold(search):
    logits = [hit.logit for hit in search.text("a red circle", k=100).hits]

    def asked(threshold):
        refuses = Refusal(threshold, (1.0, 0.0), 0.5, 0.0, 1, 1)
        return dataclasses.replace(search, refusal=refuses).text("a red circle", k=100)

    highest = max(hit.likely for hit in asked(0.5).hits)
    assert highest == pytest.approx(1 / (1 + np.exp(-max(logits) - 0.5)))
    assert asked(highest).matches is True
    refused = asked(np.nextafter(highest, 1))
    assert refused.matches is False
    assert len(refused.hits) == len(logits)


def test_a_model_that_cannot_tell_does_not_refuse(model, built):
    """Some wrong photo of many nearly always beats the own one: the curve falls where the scores rise."""
    draw = np.random.default_rng(0)
    true = draw.normal(size=(100, 2))
    wrong = [scores[np.argsort(-scores.sum(1))] for scores in draw.normal(size=(100, 500, 2))]
    refusal = calibrate(true, wrong, 501)
    assert max(refusal.slopes) < 0
    assert refusal.false_alarms == 1
    manifest = store.read_manifest(built)
    assert query.open_search(model, built).refusal is not None
    try:
        store.write_manifest(built, dataclasses.replace(manifest, refusal=dataclasses.asdict(refusal)))
        found = query.open_search(model, built).text("a red circle", k=10)
    finally:
        store.write_manifest(built, manifest)
    assert found.matches is None
    assert {hit.likely for hit in found.hits} == {None}
