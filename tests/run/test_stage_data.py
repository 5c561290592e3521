"""Runs whose partners come from the whole split: from cached states in one stage, from the files in the next."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline
from bridge_jax.data.partners import Ranked
from bridge_jax.data.stored_rows import StoredRows
from bridge_jax.run import ranking, stage_data, train
from bridge_jax.step.batch import abstract_batch
from bridge_jax.workdir.outcome import StorageError
from tests import runs
from tests.runs import Stopped, assert_same, stop_at

RANKS = (1, 6)
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny()
    settings.mining.update(source="split", ranks=RANKS, refresh_steps=2)
    settings.stages.align.update(caption_kinds=("relation", "converse"))
    settings.stages.align.wrong_captions = settings.stages.task.wrong_captions = 1
    settings.stage_order = ("align", "task")
    settings.evals.retrieval.splits = ()
    return config.parse(settings)


def test_the_split_is_ranked_where_a_stage_begins_and_after_every_refresh(whole):
    """When it was ranked at 6, the checkpoints of 2, 4 and 6 were kept; the ranking of 0 was of none of them."""
    assert {path.name for path in (whole[0] / stage_data.FOLDER).iterdir()} == {"2", "4", "6"}


def test_a_run_stopped_anywhere_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    """At 3 and 7 between two rankings: the run draws on from the one that it was drawing from."""
    runs.stopped_at((1, 3, 5, 7), cfg, tmp_path, monkeypatch)
    assert_same(tmp_path, whole[0])


def test_a_band_beyond_the_split_is_refused_before_anything_is_written(cfg, tmp_path):
    beyond = dataclasses.replace(cfg, mining=dataclasses.replace(cfg.mining, ranks=(1, 32)))
    with pytest.raises(ConfigError, match=r"ranks ends at 32, but 'train' has 32 pictures to rank: end it at 31"):
        train.run(beyond, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_ranking_that_was_drawn_from_and_is_gone_is_one_line(cfg, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3, cfg)
    with pytest.raises(Stopped):
        train.run(cfg, str(tmp_path))
    monkeypatch.undo()
    shutil.rmtree(tmp_path / stage_data.FOLDER)
    with pytest.raises(ConfigError, match=r"rankings/2 is not there: .* Bring it back, or start again in a new"):
        train.run(cfg, str(tmp_path))


def test_a_ranking_that_cannot_be_written_is_one_line(cfg, tmp_path):
    (tmp_path / stage_data.FOLDER).write_text("a file where the folder is to be")
    with pytest.raises(StorageError, match=r"^the ranking .*rankings/0 could not be saved: .*ot a directory") as caught:
        train.run(cfg, str(tmp_path))
    assert "\n" not in str(caught.value)


def ranked_at_random(cfg, folder) -> Ranked:
    """Write a ranking in which every candidate is another record's caption or picture, and some are absent."""
    records, draw = pipeline.open_split(cfg.data, cfg.data.train_split), np.random.default_rng(0)
    split = ranking.read_split(records, ())
    images = (split.record[:, None] + draw.integers(1, len(records), (len(split.record), 6))) % len(records)
    texts = draw.integers(0, len(split.record), (len(records), 6))
    texts[split.record[texts] == np.arange(len(records))[:, None]] = -1
    texts[0] = images[split.first[0] : split.first[1]] = -1
    for name, array in ((stage_data.IMAGES, images), (stage_data.TEXTS, texts)):
        np.save(folder / name, array.astype(np.int32))
    stored = (StoredRows.open(folder / name) for name in (stage_data.IMAGES, stage_data.TEXTS))
    return Ranked(*stored, split.first, cfg.mining.partners)


def test_partners_are_drawn_from_the_ranking(cfg, tmp_path):
    ranked, draw = ranked_at_random(cfg, tmp_path), np.random.default_rng(0)
    records = pipeline.open_split(cfg.data, cfg.data.train_split)
    for caption in range(0, ranked.images.shape[0], 3):
        record, place = ranked.place(caption)
        assert ranked.first[record] + place == caption
        assert 0 <= place < len(records[record]["captions"])
        drawn = ranked.draw(record, caption, draw)
        listed = set(ranked.images.read(caption).tolist()) - {-1}, set(ranked.texts.read(record).tolist()) - {-1}
        for found, valid, known, own in zip(drawn[::2], drawn[1::2], listed, (record, caption), strict=True):
            assert valid.tolist() == [True] * min(2, len(known)) + [False] * max(0, 2 - len(known))
            assert set(found[valid].tolist()) <= known
            assert (found[~valid] == own).all()


def test_the_pipeline_makes_the_pictures_and_the_words_of_the_partners(cfg, tmp_path):
    """Of the fields that the step reads; a picture is that of its record, up to the random view."""
    ranked, stage = ranked_at_random(cfg, tmp_path), cfg.stages["task"]
    batch = pipeline.train(cfg, stage, seed_stream="test", ranked=ranked)[0]
    found = {
        name: (array.shape, array.dtype) for name, array in dataclasses.replace(batch, broken=None).arrays().items()
    }
    wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_batch(cfg, stage).arrays())
    assert found == wanted
    whole_view = dataclasses.replace(
        cfg, data=dataclasses.replace(cfg.data, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    )
    batch = pipeline.train(whole_view, stage, seed_stream="test", ranked=ranked)[0]
    everything = {}
    for images, ids, _ in pipeline.images(whole_view, cfg.data.train_split, 8):
        everything |= dict(zip(ids.tolist(), images, strict=True))
    for pictures, valid, own in zip(batch.partner_images, batch.partner_image_valid, batch.image_ids, strict=True):
        for picture in pictures[valid]:
            assert any((picture == view).all() for number, view in everything.items() if number != own)
    said = {own: set() for own in everything}
    for ids, mask, owners, _, valid in pipeline.captions(cfg, cfg.data.train_split, 8):
        for line, written, own in zip(ids[valid], mask[valid], owners[valid], strict=True):
            said[int(own)].add(tuple(line[written].tolist()))
    for row, own in enumerate(batch.image_ids):
        for line, written in zip(batch.partner_ids[row], batch.partner_text_mask[row], strict=True):
            words = tuple(line[written].tolist())
            assert not words or any(words in captions for other, captions in said.items() if other != own)
    assert batch.partner_text_mask.any(axis=2).sum() > 8
