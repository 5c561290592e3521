"""Retrieval against a slow twin that embeds one by one, fuses every pair one by one and sorts."""

import dataclasses

import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.data import image, pipeline, text
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.evals.scores import recall
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from tests import runs

SPLIT, TOP_K, WEIGHT, MORE = "val", 4, 0.5, (2, 9)


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny(depth=2)
    settings.evals.retrieval.update(rerank_top_k=TOP_K, rerank_weight=WEIGHT, batch_size=24, folds=2)
    settings.evals.retrieval.more_top_k = MORE
    return config.parse(settings)


@pytest.fixture(scope="module")
def params(cfg):
    """Random parameters with an open gate and a match head that says something of its own."""
    return runs.opened(cfg, "heads/itm/out")


@pytest.fixture(scope="module")
def predict(cfg):
    return build_predict(cfg, sharding.make_mesh(cfg.mesh))


@pytest.fixture(scope="module")
def metrics(cfg, params, predict):
    return Evaluator(cfg, predict).run(params, SPLIT, rerank=True)


@dataclasses.dataclass
class Twin:
    cosines: np.ndarray  # [texts, images]
    logits: np.ndarray
    scale: float
    text_ids: np.ndarray
    image_ids: np.ndarray
    kinds: np.ndarray


@pytest.fixture(scope="module")
def twin(cfg, params, predict) -> Twin:
    tokenizer = text.load(cfg.data, cfg.text)
    images, texts = [], []
    for record in pipeline.open_split(cfg.data, SPLIT):
        lower = predict.lower_image(params, image.eval_view(record["image"], 32)[None])
        images.append((record["image_id"], lower, predict.unimodal_image(params, lower)[0]))
        for caption, kind in zip(record["captions"], record["caption_kinds"], strict=True):
            ids, mask = tokenizer.encode([caption])
            lower = predict.lower_text(params, ids, mask)
            texts.append((record["image_id"], lower, predict.unimodal_text(params, lower, mask)[0], mask, kind))
    logits = [
        [float(predict.fused(params, Lower(image=i[1], text=t[1], text_mask=t[3]))[1][0]) for i in images]
        for t in texts
    ]
    return Twin(
        cosines=np.array([[float(t[2] @ i[2]) for i in images] for t in texts]),
        logits=np.array(logits),
        scale=float(np.exp(params["heads"]["log_scale"])),
        text_ids=np.array([t[0] for t in texts]),
        image_ids=np.array([i[0] for i in images]),
        kinds=np.array([t[4] for t in texts]),
    )


def unimodal_rank(row, own):
    order = sorted(range(len(row)), key=lambda c: -row[c])
    return 1 + next(place for place, c in enumerate(order) if own[c])


def reranked_rank(row, score, own, k=TOP_K):
    """The best k of `row` in the order of `score`, then the rest in their old order."""
    order = sorted(range(len(row)), key=lambda c: -row[c])
    order = sorted(order[:k], key=lambda c: -score[c]) + order[k:]
    return 1 + next(place for place, c in enumerate(order) if own[c])


def sides(twin):
    score = twin.logits + WEIGHT * twin.scale * twin.cosines
    own = twin.text_ids[:, None] == twin.image_ids
    return {"text_to_image": (twin.cosines, score, own), "image_to_text": (twin.cosines.T, score.T, own.T)}


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_recalls_are_the_slow_twins(metrics, twin, direction):
    cosines, score, own = sides(twin)[direction]
    unimodal = [unimodal_rank(row, mine) for row, mine in zip(cosines, own, strict=True)]
    reranked = [reranked_rank(*row) for row in zip(cosines, score, own, strict=True)]
    for name, ranks in (("unimodal", unimodal), ("rerank", reranked)):
        for key, value in recall.summary(np.array(ranks)).items():
            assert metrics[f"{name}/{direction}/{key}"] == pytest.approx(value), (name, key)
    gain = 100 * (np.mean(np.array(reranked) == 1) - np.mean(np.array(unimodal) == 1))
    assert metrics[f"rerank_gain/{direction}/r@1"] == pytest.approx(gain)


@pytest.mark.parametrize("depth", MORE)
def test_other_numbers_of_candidates_are_reranked_too(metrics, twin, depth):
    for direction, (cosines, score, own) in sides(twin).items():
        ranks = [reranked_rank(*row, k=depth) for row in zip(cosines, score, own, strict=True)]
        for key, value in recall.summary(np.array(ranks)).items():
            assert metrics[f"rerank@{depth}/{direction}/{key}"] == pytest.approx(value), key
    rows = Evaluator.table(metrics).rows
    assert [row[:2] for row in rows][-4:] == [
        (direction, f"best {k}") for direction in ("image_to_text", "text_to_image") for k in MORE
    ]


def test_the_checkpoint_may_be_chosen_by_the_reranked_recall(cfg, params, predict):
    """With a weight fitted to the photos that choose, as the final one is."""
    settings = dataclasses.replace(cfg.evals["retrieval"], select_by="rerank", fit_rerank_weight=True)
    cfg = dataclasses.replace(cfg, evals=dict(cfg.evals) | {"retrieval": settings})
    evaluator = Evaluator(cfg, predict)
    watched = evaluator.watch(params, lambda *_: None)
    assert evaluator.score(watched) == {"rerank_rsum": watched["rerank/rsum"]}
    assert not any(name.startswith("rerank@") for name in watched)
    fresh = Evaluator(cfg, predict)
    fitted = fresh.fit(params, lambda *_: None)
    assert fitted["rerank_weight"] == watched["rerank/weight"]
    assert fresh.run(params, SPLIT, rerank=True)["rerank/rsum"] == watched["rerank/rsum"]
    assert evaluator.summary(watched).count("rsum") == 2


def test_the_reranked_recall_needs_a_bridge(cfg):
    settings = dataclasses.replace(cfg.evals["retrieval"], select_by="rerank")
    for bridge, message in (
        (cfg.bridge, ""),
        (dataclasses.replace(cfg.bridge, design="none", layers=0), "no bridge to"),
    ):
        changed = dataclasses.replace(cfg, bridge=bridge, evals={"retrieval": settings})
        if message:
            with pytest.raises(ConfigError, match=message):
                Evaluator.check(changed)
        else:
            Evaluator.check(changed)


def test_reranking_changes_ranks(twin):
    """Otherwise the comparison with the twin could not tell the two orders apart."""
    cosines, score, own = sides(twin)["text_to_image"]
    rows = list(zip(cosines, score, own, strict=True))
    assert [unimodal_rank(row, mine) for row, _, mine in rows] != [reranked_rank(*row) for row in rows]


def test_kinds_of_captions_are_scored_apart(metrics, twin):
    cosines, _, own = sides(twin)["text_to_image"]
    for kind in ("description", "relation", "converse"):
        rows = np.flatnonzero(twin.kinds == kind)
        ranks = np.array([unimodal_rank(cosines[row], own[row]) for row in rows])
        assert metrics[f"unimodal/text_to_image/{kind}/r@5"] == pytest.approx(100 * np.mean(ranks <= 5))


def test_two_way_compares_the_true_picture_with_the_unimodal_best(metrics, twin):
    cosines, score, own = sides(twin)["text_to_image"]
    wins = {"unimodal": [], "fused": [], "rerank": []}
    for row, mine in enumerate(own):
        true = int(np.argmax(mine))
        best = sorted(range(len(mine)), key=lambda c, row=row: -cosines[row, c])[:TOP_K]
        for other in (c for c in best if c != true):
            for name, matrix in (("unimodal", cosines), ("fused", twin.logits), ("rerank", score)):
                wins[name].append(matrix[row, true] > matrix[row, other])
    for name, found in wins.items():
        assert metrics[f"two_way/{name}"] == pytest.approx(100 * np.mean(found)), name


def test_folds_are_galleries_of_their_own(metrics, twin):
    halves = np.split(np.arange(len(twin.image_ids)), 2)
    found = []
    for half in halves:
        rows = np.flatnonzero(np.isin(twin.text_ids, twin.image_ids[half]))
        own = twin.text_ids[rows, None] == twin.image_ids[half]
        ranks = [unimodal_rank(twin.cosines[row][half], mine) for row, mine in zip(rows, own, strict=True)]
        found.append(100 * np.mean(np.array(ranks) == 1))
    assert metrics["unimodal/2_folds/text_to_image/r@1"] == pytest.approx(np.mean(found))


def test_a_limit_scores_the_first_pictures_alone(cfg, params, predict, twin):
    """In no folds, as five pictures have no equal halves."""
    found = Evaluator(cfg, predict).run(params, SPLIT, rerank=True, limit_images=5)
    rows = np.isin(twin.text_ids, twin.image_ids[:5])
    own = twin.text_ids[rows, None] == twin.image_ids[:5]
    ranks = [unimodal_rank(row, mine) for row, mine in zip(twin.cosines[rows, :5], own, strict=True)]
    assert found["unimodal/text_to_image/r@1"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))


def test_kept_lower_states_change_nothing(cfg, params, predict):
    kept, fresh = Evaluator(cfg, predict, lower_frozen=True), Evaluator(cfg, predict)
    first = kept.run(params, SPLIT, rerank=False)
    flat = paths.flatten(params)
    moved = {
        path: value + 0.1 if path.startswith(("heads", "vision/block_01")) else value for path, value in flat.items()
    }
    moved = paths.unflatten(moved)
    again = kept.run(moved, SPLIT, rerank=False)
    assert again == pytest.approx(fresh.run(moved, SPLIT, rerank=False))
    assert again != first


def test_nan_is_an_error_and_no_perfect_rank(cfg, params, predict):
    flat = paths.flatten(params)
    spoiled = paths.unflatten({**flat, "heads/unimodal_text/linear/bias": np.full(16, np.nan, np.float32)})
    with pytest.raises(FloatingPointError, match="text_to_image: the score of query 0 and candidate 0 is NaN"):
        Evaluator(cfg, predict).run(spoiled, SPLIT, rerank=False)
    spoiled = paths.unflatten({**flat, "heads/itm/out/bias": np.full(1, np.nan, np.float32)})
    with pytest.raises(FloatingPointError, match="NaN"):
        Evaluator(cfg, predict).run(spoiled, SPLIT, rerank=True)
