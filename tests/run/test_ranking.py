"""The ranking of a split, against one that looks at every pair alone."""

import jax
import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.run import ranking
from bridge_jax.run.ranking import Embedded, Split, rank
from bridge_jax.step import sharding
from tests import tiny

RECORDS, EACH, E = 40, 3, 8


def config(**mining):
    return tiny.config(mining=dict(source="split", partners=1, ranks=(2, 5)) | mining)


def split(generator) -> Split:
    """Return three captions a record; one in eight stands at another picture too, and one in seven is never drawn."""
    owners = np.repeat(np.arange(RECORDS), EACH)
    words = np.arange(len(owners))
    words[::8] = words[generator.permutation(len(owners))[::8]]
    drawn = np.arange(len(owners)) % 7 != 3
    return Split(np.arange(RECORDS) * EACH, owners, words, drawn)


def unit(generator, count: int) -> np.ndarray:
    rows = generator.normal(size=(count, E)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(generator) -> Embedded:
    readable = np.arange(RECORDS) % 11 != 5
    return Embedded(unit(generator, RECORDS), readable, unit(generator, RECORDS * EACH))


def expected(cfg, split: Split, embedded: Embedded):
    """Return both rankings, pair by pair: -1 where a query has no candidate at a rank."""
    (first, last), left_out = cfg.mining.ranks, 0
    cosine = embedded.texts @ embedded.images.T
    captions = [c for c in range(len(split.words)) if split.drawn[c] and embedded.readable[split.record[c]]]
    records = sorted({int(split.record[c]) for c in captions})
    described = {(split.words[c], split.record[c]) for c in range(len(split.words))}
    images = np.full((len(split.words), last - first + 1), -1)
    texts = np.full((len(split.first), last - first + 1), -1)

    def chosen(scored, true):
        kept = [number for score, number in scored if score <= true + cfg.mining.false_margin]
        return kept[first - 1 : last], len(scored) - len(kept)

    for c in captions:
        scored = [(cosine[c, r], r) for r in records if (split.words[c], r) not in described]
        kept, out = chosen(sorted(scored, key=lambda pair: -pair[0]), cosine[c, split.record[c]])
        images[c, : len(kept)] = kept
        left_out += out
    for r in records:
        scored = [(cosine[c, r], c) for c in captions if (split.words[c], r) not in described]
        true = max(cosine[c, r] for c in captions if split.record[c] == r)
        kept, out = chosen(sorted(scored, key=lambda pair: -pair[0]), true)
        texts[r, : len(kept)] = kept
        left_out += out
    return images, texts, left_out


@pytest.mark.parametrize("false_margin", [2.0, 0.1])
@pytest.mark.parametrize("spare", [0, 32], ids=["searched again", "at once"])
def test_it_is_the_ranking_of_every_pair(monkeypatch, false_margin, spare):
    monkeypatch.setattr(ranking, "_SPARE", spare)
    monkeypatch.setattr(ranking, "_TILE_SCORES", 16 * RECORDS)  # several tiles, the last with repeated rows
    cfg, generator = config(false_margin=false_margin), np.random.default_rng(0)
    split_, embedded_ = split(generator), embedded(generator)
    found = rank(cfg, split_, embedded_, sharding.make_mesh(cfg.mesh), lambda *_: None)
    images, texts, left_out = expected(cfg, split_, embedded_)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.texts, texts)
    assert found.left_out == left_out
    assert (left_out > 0) == (false_margin < 2)
    assert (images[split_.drawn & embedded_.readable[split_.record]] >= 0).any()


def test_a_band_beyond_the_split_is_refused():
    cfg, generator = config(ranks=(1, 36)), np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"config.mining.ranks ends at 36, but 'train' has 36 pictures to rank: end "):
        rank(cfg, split(generator), embedded(generator), sharding.make_mesh(cfg.mesh), lambda *_: None)


def test_a_query_with_fewer_candidates_than_ranks_has_gaps():
    """Every caption stands at every picture but one, whose captions are its own."""
    words = np.repeat([0, 0, 0, 1], 2)
    few = Split(np.arange(4) * 2, np.repeat(np.arange(4), 2), words, np.ones(8, bool))
    generator = np.random.default_rng(0)
    some = Embedded(unit(generator, 4), np.ones(4, bool), unit(generator, 8))
    cfg = config(ranks=(1, 3))
    found = rank(cfg, few, some, sharding.make_mesh(cfg.mesh, jax.devices()[:1]), lambda *_: None)
    np.testing.assert_array_equal(found.images[:6], [[3, -1, -1]] * 6)
    np.testing.assert_array_equal(np.sort(found.images[6:]), [[0, 1, 2]] * 2)
    assert {tuple(sorted(row)) for row in found.texts[:3].tolist()} == {(-1, 6, 7)}
    assert (found.texts[3] >= 0).all()


def test_the_captions_of_a_split_are_numbered_in_its_order():
    records = [
        dict(captions=["a", "b", "a"], caption_kinds=["x", "y", "x"], filename="0"),
        dict(captions=["b", "\N{REPLACEMENT CHARACTER}"], caption_kinds=["x", "x"], filename="1"),
    ]
    found = ranking.read_split(records, ("x",))
    assert found.first.tolist() == [0, 3]
    assert found.record.tolist() == [0, 0, 0, 1, 1]
    assert found.words.tolist() == [0, 1, 0, 1, 2]
    assert found.drawn.tolist() == [True, False, True, True, False]  # the last has a fault
