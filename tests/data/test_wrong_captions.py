"""Wrong captions in the batch: those of the row's own record, each at most once, masked where there are too few."""

import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline, text, wrong_captions
from bridge_jax.data.broken import BrokenError


@pytest.fixture(scope="module")
def cfg(tiny):
    return config.parse(tiny())


def drawing(cfg, count):
    return dataclasses.replace(cfg, mining=dataclasses.replace(cfg.mining, wrong_captions=count))


def batches(cfg, count=3, losses=("itm",)):
    stage = dataclasses.replace(cfg.stages["task"], losses=losses)
    ds = pipeline.train(cfg, stage, seed_stream="test")
    return [ds[step] for step in range(count)]


def test_a_row_has_wrong_captions_of_its_own_record(cfg):
    records = {r["image_id"]: r for r in pipeline.open_split(cfg.data, cfg.data.train_split)}
    tokenizer, drawn = text.load(cfg.data, cfg.text), set()
    for batch in batches(drawing(cfg, 2), count=6):
        for row, image_id in enumerate(batch.image_ids):
            lines = [tokenizer.decode(ids) for ids in batch.wrong_ids[row]]
            assert len(set(lines)) == 2
            assert set(lines) <= set(records[image_id]["wrong_captions"])
            own = sorted(tokenizer.decode(batch.ids[row]).split())
            same_words = [line for line in records[image_id]["wrong_captions"] if sorted(line.split()) == own]
            assert lines[0] in same_words or not same_words
            drawn |= {(int(image_id), line) for line in lines}
    assert len({image_id for image_id, _ in drawn}) < len(drawn) / 2, "always the same two of a record"


def test_those_whose_words_differ_least_from_the_own_caption_come_first(cfg):
    tokenizer = text.load(cfg.data, cfg.text)
    wrong = ["two small red circles", "one large blue square below one small red circle", "one small red circle"]
    own = "One small red circle below one large blue square"
    for seed in range(4):
        drawn = wrong_captions.DrawWrong(tokenizer, 3)(wrong, own, np.random.default_rng(seed))
        assert [tokenizer.decode(ids) for ids in drawn["wrong_ids"]] == [wrong[1], wrong[2], wrong[0]]


def test_without_them_the_batch_is_the_same_bit_for_bit(cfg):
    for without, with_them in zip(batches(cfg), batches(drawing(cfg, 1)), strict=True):
        assert without.wrong_ids is None
        again = dataclasses.replace(with_them, wrong_ids=None, wrong_mask=None)
        jax.tree.map(np.testing.assert_array_equal, without, again)


def test_a_stage_that_reads_no_wrong_caption_draws_none(cfg):
    """`itc` embeds them, `cycle` reads true pairs only."""
    assert batches(drawing(cfg, 2), count=1, losses=("itc",))[0].wrong_ids is not None
    assert batches(drawing(cfg, 2), count=1, losses=("cycle",))[0].wrong_ids is None


def test_rows_that_a_record_lacks_are_masked_and_unusable_captions_left_out(cfg):
    draw = wrong_captions.DrawWrong(text.load(cfg.data, cfg.text), 3)
    drawn = draw(["a red circle", " ", "two blue squares"], "a blue circle", np.random.default_rng(0))
    assert drawn["wrong_mask"].any(axis=1).tolist() == [True, True, False]
    assert drawn["wrong_ids"].shape == drawn["wrong_mask"].shape == (3, cfg.text.length)


def test_a_data_set_without_wrong_captions_is_refused(cfg):
    records = [{**record, "wrong_captions": []} for record in pipeline.open_split(cfg.data, cfg.data.train_split)]
    stage = dataclasses.replace(cfg.stages["task"], losses=("itm",))
    with pytest.raises(
        ConfigError, match=r"mining\.wrong_captions is 2, but the records of 'shapes' have no wrong cap"
    ):
        pipeline.train(drawing(cfg, 2), stage, seed_stream="test", records=records)


class Damaged(list):
    """Records of which the first cannot be read."""

    def __getitem__(self, index):
        if index == 0:
            raise BrokenError("a damaged record")
        return super().__getitem__(index)


def test_a_damaged_first_record_does_not_stop_the_run(cfg):
    records = Damaged(pipeline.open_split(cfg.data, cfg.data.train_split))
    assert wrong_captions.draw_of(records, "shapes", text.load(cfg.data, cfg.text), 2) is not None
