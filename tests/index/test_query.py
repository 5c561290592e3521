"""bridge_jax/index/query.py and exact.py: the nearest by a loop, the bridge's order by the model's own pairs."""

import dataclasses

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.index import exact, query
from bridge_jax.index.model import PAIRS
from bridge_jax.types import Lower


def test_nearest_is_exact_in_every_chunk(monkeypatch):
    draw = np.random.default_rng(0)
    embeddings = draw.normal(size=(50, 8)).astype(np.float32)
    embeddings[31] = embeddings[7]  # a tie, across two chunks
    monkeypatch.setattr(exact, "CHUNK", 16)
    for _ in range(20):
        asked, allowed, k = draw.normal(size=8).astype(np.float32), draw.random(50) < 0.7, int(draw.integers(1, 60))
        rows, cosines = exact.nearest(embeddings, asked, k, allowed)
        scores = {row: float(sum(embeddings[row] * asked)) for row in range(50) if allowed[row]}
        expected = sorted(scores, key=lambda row: (-round(scores[row], 4), row))[:k]
        assert rows.tolist() == expected
        np.testing.assert_allclose(cosines, [scores[row] for row in expected], rtol=1e-4, atol=1e-5)
    assert exact.nearest(embeddings, embeddings[7] * 9, 2, np.ones(50, bool))[0].tolist() == [7, 31]
    assert exact.nearest(embeddings, asked, 5, np.zeros(50, bool))[0].tolist() == []


def test_the_order_is_that_of_the_evaluator(search, model):
    """Match logit + weight x logit scale x cosine, of pairs that the model fuses one by one."""
    answer = search.text("a red circle", k=9)
    asked = model.text("a red circle")
    for hit in answer.hits:
        states = np.asarray(search.index.states[hit.photo.row], np.float32)[None]
        logit = float(model.predict.fused(model.params, Lower(states, asked.lower[None], asked.mask[None]))[1][0])
        cosine = float(asked.embedding @ search.index.embeddings[hit.photo.row])
        assert hit.logit == pytest.approx(logit, abs=1e-4)
        assert hit.unimodal == pytest.approx(model.scale * cosine, abs=1e-4)
        assert hit.score == pytest.approx(logit + model.weight * model.scale * cosine, abs=1e-3)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    plain = search.text("a red circle", k=9, rerank=False)
    assert {hit.photo for hit in plain.hits} == {hit.photo for hit in answer.hits}
    assert [hit.unimodal for hit in plain.hits] == sorted((hit.unimodal for hit in answer.hits), reverse=True)
    assert plain.matches is None
    assert all(answer.ms[name] > 0 for name in ("embed", "search", "rerank", "all"))


def test_a_text_is_one_row_for_all_its_photos(model, search):
    placed = []
    watched = dataclasses.replace(
        model.predict, place=lambda lower: placed.append(lower) or model.predict.place(lower), fused=None
    )
    asked = model.text("a red circle")
    logits = dataclasses.replace(model, predict=watched).match(asked, search.index.states[: PAIRS + 1])
    assert len(logits) == min(PAIRS + 1, len(search.index.states))
    assert {len(lower.text) for lower in placed} == {1}


def test_a_photo_of_the_index_finds_itself(search, album):
    photo = list(search.index.photos.values())[5]
    best = search.pixels((album / photo.path).read_bytes(), k=3).hits[0]
    assert best.photo == photo
    assert best.unimodal == pytest.approx(search.model.scale, rel=1e-4)  # a cosine of 1
    assert search.like(search.index.embeddings[photo.row], k=1).hits[0].photo == photo


def test_filters_keep_folder_and_days(search):
    inside = search.text("a circle", k=100, where=query.Filter(folder="circles/"))
    assert {hit.photo.path.split("/")[0] for hit in inside.hits} == {"circles"}
    assert len(inside.hits) == 12
    assert len(search.text("a circle", k=100, where=query.Filter(since="2023-11-14")).hits) == 12
    assert len(search.text("a circle", k=100, where=query.Filter(until="2023-11-13")).hits) == 12
    nothing = search.text("a circle", k=100, where=query.Filter(folder="circle"))
    assert (nothing.hits, nothing.matches) == ([], False)
    with pytest.raises(ConfigError, match="since is 'May': expected a day such as"):
        query.Filter(since="May")


def test_arithmetic_adds_embeddings(search, model):
    words = {word: model.text(word).embedding for word in ("circle", "red", "square")}
    total = words["circle"] + words["red"] - words["square"]
    expected = search.like(total / np.linalg.norm(total), k=5)
    answer = search.text("circle + red - square", k=5)
    assert [hit.photo for hit in answer.hits] == [hit.photo for hit in expected.hits]
    assert all(hit.logit is None for hit in answer.hits)
    with pytest.raises(ConfigError, match="cancel out"):
        search.text("circle - circle", k=5)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a horse", [(1, "a horse")]),
        ("horse + stripes - grass", [(1, "horse"), (1, "stripes"), (-1, "grass")]),
        ("- grass + sky", [(-1, "grass"), (1, "sky")]),
        ("a t-shirt, 2+2", [(1, "a t-shirt, 2+2")]),
    ],
)
def test_terms(text, terms):
    assert query.parse(text) == terms


@pytest.mark.parametrize("text", ["horse + ", "+ - x", "a +  + b"])
def test_an_empty_term_is_refused(text):
    with pytest.raises(ConfigError, match="has an empty term"):
        query.parse(text)


def test_a_text_without_words_is_refused(search):
    with pytest.raises(ConfigError, match="the query is an empty caption"):
        search.text(" \t", k=3)
