"""bridge_jax/index/approximate.py: what it finds against a loop, and that it follows the exact index."""

import dataclasses
import shutil
import sys
import types

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.index import approximate, query, store
from tests.index.albums import PHOTOS, make

TEXTS = ("a red circle", "two small blue squares", "a cross below a circle")


@pytest.fixture(scope="module")
def index(model, album, tmp_path_factory):
    """An index with an approximate one, that no test changes."""
    folder = tmp_path_factory.mktemp("approximate") / "index"
    make(model, album, folder, approximate=True)
    return folder


@pytest.fixture
def changed(index, photos, tmp_path):
    """A copy of the index and of its photos."""
    folder = shutil.copytree(index, tmp_path / "index")
    manifest = store.read_manifest(folder)
    store.write_manifest(folder, dataclasses.replace(manifest, photos=str(photos)))
    return folder


def graphs(folder):
    return [path.name for path in folder.glob(approximate.FILES)]


def test_it_finds_what_the_exact_search_finds(model, index):
    one, other = (query.open_search(model, index, approximate=asked) for asked in (False, True))
    for text in TEXTS:
        for k in (3, PHOTOS + 5):
            exact, found = (each.text(text, k=k).hits for each in (one, other))
            assert [hit.photo for hit in exact] == [hit.photo for hit in found]
            np.testing.assert_allclose([hit.score for hit in exact], [hit.score for hit in found], atol=1e-4)
    inside = query.Filter(folder="circles")
    assert len(other.text(TEXTS[0], k=PHOTOS, where=inside).hits) == PHOTOS / 2
    graph = approximate.Graph(**one.index.manifest.approximate)
    assert (graph.recall, graph.queries) == (1, "16 captions of shapes/val")


def test_only_the_graph_is_searched(model, index, monkeypatch):
    """Else the test before would pass without one."""
    search = query.open_search(model, index, approximate=True)
    monkeypatch.setattr(approximate, "_found", lambda *_: np.array([3, 5]))
    assert {hit.photo.row for hit in search.text(TEXTS[0], k=9).hits} == {3, 5}


def test_the_recall_is_counted_by_a_loop():
    draw = np.random.default_rng(0)
    embeddings, asked = (draw.normal(size=(n, 8)).astype(np.float32) for n in (60, 20))
    embeddings[31] = embeddings[7]  # equally good
    rows, found = np.arange(5, 55), draw.integers(5, 55, (20, approximate.NEAREST))
    answers = iter(found)
    graph = types.SimpleNamespace(search=lambda *_, **__: types.SimpleNamespace(keys=next(answers)))
    expected = []
    for query_, keys in zip(asked, found, strict=True):
        best = sorted((float(embeddings[row] @ query_) for row in rows), reverse=True)[: approximate.NEAREST]
        expected.append(sum(float(embeddings[key] @ query_) >= best[-1] - 1e-6 for key in keys) / approximate.NEAREST)
    assert 0 < np.mean(expected) < 1
    assert approximate.measure(graph, embeddings, rows, asked) == pytest.approx(np.mean(expected))


def test_a_large_graph_is_refused_or_kept_by_its_recall(model, tmp_path, monkeypatch):
    """Searching few candidates misses neighbours of random directions; the first number that finds enough is kept."""
    draw = np.random.default_rng(0)
    embeddings = draw.normal(size=(2000, model.cfg.bridge.embed_width)).astype(np.float32)
    asked = draw.normal(size=(30, embeddings.shape[1])).astype(np.float32)
    monkeypatch.setattr(approximate, "_queries", lambda model: (asked, "30 texts"))
    monkeypatch.setattr(approximate, "EXPANSIONS", (1, 4, 64, 500))
    rows = np.arange(0, 2000, 2)
    graph = approximate.build(tmp_path, model, embeddings, rows, lambda *_: None)
    assert graph.expansion > 1
    assert graph.recall >= approximate.LEAST_RECALL
    opened = approximate.Neighbours(tmp_path, dataclasses.asdict(graph))
    assert all(set(opened.rows(each, 10).tolist()) <= set(rows.tolist()) for each in asked)
    first = (tmp_path / graph.file).read_bytes()
    approximate.build(tmp_path, model, embeddings, rows, lambda *_: None)
    assert (tmp_path / graph.file).read_bytes() == first
    monkeypatch.setattr(approximate, "EXPANSIONS", (1,))
    with pytest.raises(ConfigError, match=r"of the 10 nearest photos of 30 texts it finds \d+\.\d %, expected 95 %"):
        approximate.build(tmp_path, model, embeddings, rows, lambda *_: None)


def test_it_follows_the_exact_index(model, photos, changed):
    before = graphs(changed)
    assert make(model, photos, changed).approximate.file == before[0]  # nothing changed, nothing built
    (photos / "circles/00.png").unlink()
    (photos / "new.png").write_bytes((photos / "squares/01.png").read_bytes() + b"\0")
    done = make(model, photos, changed)
    assert graphs(changed) == [done.approximate.file] != before
    search = query.open_search(model, changed, approximate=True)
    found = [hit.photo.path for hit in search.text(TEXTS[0], k=100).hits]
    assert sorted(found) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    assert make(model, photos, changed, approximate=False).approximate is None
    assert graphs(changed) == []
    with pytest.raises(ConfigError, match="has no approximate index: build it with --approximate"):
        query.open_search(model, changed, approximate=True)


def test_a_refused_one_leaves_the_exact_index_whole(model, photos, changed, monkeypatch):
    monkeypatch.setattr(approximate, "LEAST_RECALL", 1.01)
    (photos / "circles/00.png").unlink()
    with pytest.raises(ConfigError, match=r"16 captions of shapes/val it finds 100\.0 %, expected 101 % or more"):
        make(model, photos, changed)
    assert graphs(changed) == []
    assert len(query.open_search(model, changed).index.photos) == PHOTOS - 1


def test_without_held_out_captions_texts_are_made_of_the_vocabulary(model):
    nowhere = dataclasses.replace(model.cfg, data=dataclasses.replace(model.cfg.data, data_dir="/nowhere"))
    embeddings, said = approximate._queries(dataclasses.replace(model, cfg=nowhere))
    assert said == f"{len(embeddings)} texts of a word of the vocabulary (the held-out captions are not here)"
    assert len(embeddings) > 20
    assert len(np.unique(embeddings.round(5), axis=0)) == len(embeddings)


def test_what_is_missing_is_one_line(model, photos, index, changed, monkeypatch):
    (changed / graphs(changed)[0]).write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="remove it and build again"):
        query.open_search(model, changed, approximate=True)
    (changed / graphs(changed)[0]).unlink()
    with pytest.raises(ConfigError, match="build again"):
        query.open_search(model, changed, approximate=True)
    assert make(model, photos, changed).approximate is not None
    query.open_search(model, changed, approximate=True)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(ConfigError, match=r"needs usearch: pip install 'bridge_jax\[approximate\]'"):
        query.open_search(model, index, approximate=True)
