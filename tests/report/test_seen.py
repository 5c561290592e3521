"""The sections about photos, of a real checkpoint on the embedded set: queries, words, attention, the map."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.analysis import kinds
from bridge_jax.config import ConfigError
from bridge_jax.data import text
from bridge_jax.report import attention, by_words, embedding, examples, looks, plane, points, write
from bridge_jax.report.gallery import open_gallery
from bridge_jax.run import finish
from bridge_jax.types import Lower
from bridge_jax.workdir import rankings
from tests.report import made
from tests.report.test_page import Tags, assert_it_loads_nothing

QUIET = lambda *_: None  # noqa: E731
PHOTOS = 3


@pytest.fixture(scope="module")
def found(workdir):
    ((_, found),) = rankings.read(workdir)
    return found


@pytest.fixture(scope="module")
def seen(cfg, params, predict, gallery):
    return attention.look(cfg, params, predict, gallery, PHOTOS, QUIET)


def test_a_query_is_shown_with_its_photo_its_caption_and_its_scores(found, gallery):
    ranked = found.text_to_image
    row = int(np.argmax(ranked.unimodal_rank))
    drawn = examples.show(found, gallery, "text_to_image", row)
    record = gallery.records[int(found.text_record[row])]
    assert f"“{record['captions'][found.text_place[row]]}”" in drawn
    assert f"rank {ranked.unimodal_rank[row]} unimodal, {ranked.rerank_rank[row]} reranked" in drawn
    assert f"Its own photo: unimodal {found.true_unimodal[row]:.2f}, bridge {found.true_fused[row]:.2f}, " in drawn
    assert gallery.photo(int(found.text_record[row])) in drawn
    joined = ranked.fused[row] + found.weight * ranked.unimodal[row]
    best = int(np.argmax(joined))
    assert f"irst reranked: unimodal {ranked.unimodal[row, best]:.2f}, bridge {ranked.fused[row, best]:.2f}, " in drawn
    assert f"joined {joined[best]:.2f}" in drawn
    assert gallery.photo(int(ranked.candidates[row, best])) in drawn


def test_two_runs_show_the_queries_that_one_alone_finds(workdir, found, gallery, tmp_path):
    ranked = found.text_to_image
    row = int(np.flatnonzero(ranked.rerank_rank == 1)[1])
    own = int(found.text_record[row])
    place = int(np.flatnonzero(ranked.candidates[row] != own)[-1])  # which the second run puts first
    fused, ranks = ranked.fused.copy(), ranked.rerank_rank.copy()
    fused[row, place], ranks[row] = 1000, 3
    second = shutil.copytree(workdir, tmp_path / "second")
    about, _ = rankings.read(workdir)[0]
    rankings.write(second, about, found._replace(text_to_image=ranked._replace(fused=fused, rerank_rank=ranks)))
    write.write_two(str(workdir), str(second), tmp_path / "two.html")
    html = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert_it_loads_nothing(html)
    assert Tags(html).open == []
    assert re.findall(r"Only (.) finds: (\d+) of", html) == [("A", "1"), ("B", "0"), ("A", "0"), ("B", "0")]
    (shown,) = re.findall(r'<article class="example">.*?</article>', html)
    assert f"“{gallery.captions(own)[found.text_place[row]]}”" in shown
    assert "rank 1 by A, 3 by B" in shown
    photos = re.findall(r"(<img .*?>)<figcaption>(.*?)<", shown)
    assert photos == [
        (gallery.photo(own), "First of A"),
        (gallery.photo(int(ranked.candidates[row, place])), "First of B"),
    ]


def test_recall_by_words_is_counted_by_hand(found, gallery):
    captions = [gallery.captions(int(r))[p] for r, p in zip(found.text_record, found.text_place, strict=True)]
    cells = {row[0]: row for row in by_words.rows(found, captions)}
    for kind in kinds.WORDS:
        of_kind = [index for index, caption in enumerate(captions) if kind in kinds.of_caption(caption)]
        assert cells[kind][1] == str(len(of_kind))
        if of_kind:
            ranks = found.text_to_image.rerank_rank[of_kind]
            assert cells[kind][4].split()[0] == f"{100 * np.mean(ranks == 1):.1f}"
        else:
            assert cells[kind][3:] == ("", "", "")


def test_maps_are_the_attention_of_the_models_own_layers(cfg, params, predict, gallery, seen):
    """Against the model's outputs for one pair, read word by word."""
    tokenizer = text.load(cfg.data, cfg.text)
    index = 1
    caption = gallery.captions(seen.rows[index])[0]
    pixels = attention.image.eval_view(gallery.records[seen.rows[index]]["image"], cfg.vision.image_px)
    ids, mask = tokenizer.encode([caption])
    lower = Lower(predict.lower_image(params, pixels[None]), predict.lower_text(params, ids, mask), mask)
    fused = predict.jit(lambda model, lower: model.fused(lower))(params, lower)
    assert seen.logits[index] == pytest.approx(float(fused.itm_logit[0]), abs=1e-4)
    words = tokenizer.words(caption)
    assert seen.words[index] == [word for word, _ in words] == caption.split()
    assert [word for word, _ in attention.spoken(tokenizer.words("one red square, ."))] == ["one", "red", "square,"]
    assert tokenizer.words("one" + " red" * 20)[-1] == ("red", [])  # cut off
    for layer in range(2):
        for place, (_, tokens) in enumerate(words):
            by_word = np.mean([fused.text_over_image[layer][0, t, 1:] for t in tokens], axis=0)
            by_patch = np.sum([fused.image_over_text[layer][0, 1:, t] for t in tokens], axis=0)
            np.testing.assert_allclose(seen.maps[index][layer, 0, place], by_word, atol=1e-5)
            np.testing.assert_allclose(seen.maps[index][layer, 1, place], by_patch, atol=1e-5)


def test_a_removed_patch_becomes_the_mean_of_those_that_stay(cfg, params, predict, gallery):
    captions = [(0, gallery.captions(0)[0]), (2, gallery.captions(2)[1])]
    pairs = attention._Pairs(cfg, params, predict, gallery, captions, text.load(cfg.data, cfg.text))
    removed = np.array([[True, False, False, True], [False, False, True, False]])
    lower = pairs._lower(np.arange(2))
    states = np.array(lower.image)
    for row, gone in enumerate(removed):
        states[row, 1:][gone] = states[row, 1:][~gone].mean(axis=0)
    expected = predict.fused(params, lower.replace(image=states))[1]
    np.testing.assert_allclose(pairs.without(removed, QUIET), expected, atol=1e-4)
    assert not np.allclose(pairs.without(np.zeros_like(removed), QUIET), expected, atol=1e-4)


def test_every_layer_and_direction_has_its_fall_and_its_verdict(seen):
    assert list(seen.falls) == [(0, "text_over_image"), (0, "image_over_text"), (1, "text_over_image"),
                                (1, "image_over_text")]  # fmt: skip
    drawn = looks.falls(seen)
    assert drawn.count("<tr>") == 5
    for fall in seen.falls.values():
        assert f"{fall.difference:+.3f} [{fall.low:+.3f}, {fall.high:+.3f}]" in drawn
    assert drawn.count("its maps point at what matters<") == sum(fall.low > 0 for fall in seen.falls.values())


def test_the_page_opens_with_the_maps_that_matter_most(seen):
    differences = [fall.difference for fall in seen.falls.values()]
    for order in (1, -1):  # whichever they are
        falls = dict(zip(seen.falls, list(seen.falls.values())[::order], strict=True))
        best = differences[::order].index(max(differences))
        assert f'value="{best}" checked' in looks._choice(dataclasses.replace(seen, falls=falls))


def test_a_map_is_written_as_levels_of_its_largest():
    maps = np.array([[[0.5, 0.25, 0.0, 0.25]]])
    assert looks.encode(maps) == "50.0:zi0i"


def test_a_design_without_attention_and_videos_have_no_maps(tiny, gallery):
    settings = tiny()
    settings.bridge.design = "pooled"
    settings.stage_order = ("stabilise",)
    with pytest.raises(ConfigError, match="'pooled' has no attention between words and patches"):
        attention.check(config.parse(settings), gallery)


def test_photos_that_changed_since_they_were_ranked_are_refused(cfg):
    with pytest.raises(ConfigError, match=r"shapes/val in .* has changed since it was ranked"):
        open_gallery(cfg.data, "val", "another")


def test_without_the_first_towers_the_map_is_of_the_trained_alone(cfg, params, predict, gallery, tmp_path, monkeypatch):
    """And without umap-learn there is none."""

    def start():
        raise ConfigError("vit-tiny: no such folder")

    gap = embedding.Gap(0, 1, 2, 3, 4)
    layout = embedding.Layout(np.zeros((4, 2)), np.ones((4, 2)), gap, gap._replace(alignment=5))
    monkeypatch.setattr(embedding, "lay_out", lambda *_: layout)
    model, path = points.Model(cfg, params, predict, start), tmp_path / "kept.npz"
    found = points.of(model, gallery, made.ABOUT, 4, path, QUIET)
    assert list(found.layouts) == ["trained"]
    assert "The towers before training are not shown: vit-tiny: no such folder" in plane.section(*found[1:])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"needs umap-learn: pip install 'bridge_jax\[report\]'"):
        points.of(model, gallery, made.ABOUT, 5, path, QUIET)


def test_a_run_writes_its_page_at_its_end_where_the_config_says_so(cfg, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(finish.write, "write", lambda *arguments: asked.append(arguments[:3]))
    finish.report(cfg, "runs/a")
    assert asked == []
    finish.report(dataclasses.replace(cfg, report=True), "runs/a")
    assert asked == [("runs/a", Path("runs/a/report.html"), write.Asked())]
    assert "the page of the run is runs/a/report.html" in capsys.readouterr().out


def test_the_split_that_is_asked_for_is_shown_or_refused(workdir):
    told = write.story.read(str(workdir))
    chosen = write.choose(told, write.Asked(split="val"))
    assert chosen is not None
    assert chosen[0].split == "val"
    with pytest.raises(ConfigError, match=r"--split: the workdir has no rankings of 'test', but of: val"):
        write.choose(told, write.Asked(split="test"))


def test_points_keep_their_places_on_the_plane():
    """A photo at the left end and a caption at the right one, and lines that join the pairs as they are given."""
    layout = embedding.Layout(np.array([[0.0, 0], [1, 1]]), np.array([[4.0, 0], [3, 2]]), None, None)
    drawn = plane.draw("t", layout, np.array([1, 0]))
    assert 'viewBox="0 0 320 168"' in drawn  # 304 pixels for four units, and as many a unit downwards
    assert '<path class="cloud a" d="M8 8h0M84 84h0"/><path class="cloud b" d="M312 8h0M236 160h0"/>' in drawn
    assert '<path class="pairs" d="M8 8L236 160M84 84L312 8"/>' in drawn


def test_no_photo_keeps_its_own_caption_among_shuffled_pairs():
    for n in (2, 3, 50):
        order = embedding.shuffled(n)
        assert sorted(order) == list(range(n))
        assert (order != np.arange(n)).all()
