"""bridge_jax/index/refusal.py and held_out.py: a curve that is known, counts by hand, pairs one by one."""

import numpy as np
import pytest

from bridge_jax import rng
from bridge_jax.data import image, pipeline
from bridge_jax.index import held_out
from bridge_jax.index.refusal import Refusal, calibrate, platt


def test_the_curve_is_found_again():
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=3, size=40_000)
    true = draw.random(len(logits)) < 1 / (1 + np.exp(-(1.5 * logits - 2)))
    slope, offset = platt(logits[true], logits[~true])
    assert (slope, offset) == pytest.approx((1.5, -2), rel=0.05)


def test_pairs_that_never_mix_still_have_a_curve():
    true, wrong = np.linspace(5, 9, 50), np.linspace(-9, -5, 50)
    refusal = calibrate(true, wrong, 50)
    low, high = refusal.probability(np.array([-9.0, 9.0]))
    assert 0 < low < 0.05
    assert 0.95 < high < 1
    assert refusal.false_alarms == 0


def test_nine_in_ten_true_pairs_are_kept():
    true, wrong = np.arange(20.0), np.array([-5.0, 0.5, 1.5, 7.0])
    refusal = calibrate(true, wrong, 20)
    assert refusal.threshold == 1  # 19 of 20 at or above it; at 2 it is 18, which is 90 %
    assert np.mean(true >= refusal.threshold) >= 0.9
    assert refusal.false_alarms == 0.5


def test_the_logits_are_those_of_each_pair(model):
    found = held_out.logits(model, "val", lambda *_: None)
    records = pipeline.open_split(model.cfg.data, "val")
    count = len(records)
    assert (len(found.true), found.photos) == (count, count)
    views = [image.eval_view(record["image"], model.cfg.vision.image_px) for record in records]
    lower = np.asarray(model.photos(np.stack(views))[1])  # 16 photos are a batch
    draw = np.random.default_rng(rng.stream_seed(model.cfg.seed, "refusal/val"))
    for place, own in enumerate(draw.permutation(count)):
        captions = records[own]["captions"]
        caption = captions[draw.integers(len(captions))]
        logits = model.match(model.text(caption), lower)
        wrong = [logits[i] for i in range(count) if caption not in records[i]["captions"]]
        assert found.true[place] == pytest.approx(logits[own], abs=0.02)  # float16 states
        assert found.wrong[place] == pytest.approx(max(wrong), abs=0.02)


def test_no_photo_matches_below_the_threshold(search):
    logits = [hit.logit for hit in search.text("a red circle", k=100).hits]

    def asked(threshold):
        object.__setattr__(search, "refusal", Refusal(threshold, 1.0, 0.0, 0.0, 1, 1))
        return search.text("a red circle", k=100)

    assert asked(max(logits)).matches is True
    refused = asked(np.nextafter(max(logits), np.inf))
    assert refused.matches is False
    assert len(refused.hits) == len(logits)
    assert refused.hits[0].likely == pytest.approx(1 / (1 + np.exp(-refused.hits[0].logit)))
