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


def drawing(cfg, wrong, losses=("itm",)):
    return dataclasses.replace(cfg.stages["task"], losses=losses, wrong_captions=wrong)


def batches(cfg, stage, count=3):
    ds = pipeline.train(cfg, stage, seed_stream="test")
    return [ds[step] for step in range(count)]


def test_a_row_has_wrong_captions_of_its_own_record_and_of_its_captions_kind(cfg):
    records = {r["image_id"]: r for r in pipeline.open_split(cfg.data, cfg.data.train_split)}
    tokenizer, drawn, kinds = text.load(cfg.data, cfg.text), set(), set()
    for batch in batches(cfg, drawing(cfg, 2), count=6):
        for row, image_id in enumerate(batch.image_ids):
            record, own = records[image_id], tokenizer.decode(batch.ids[row])
            kind = record["caption_kinds"][record["captions"].index(own)]
            of_kind = dict(zip(record["wrong_captions"], record["wrong_caption_kinds"], strict=True))
            rows = batch.wrong_mask[row].any(axis=1)
            lines = [tokenizer.decode(ids) for ids in batch.wrong_ids[row][rows]]
            assert len(set(lines)) == len(lines) == min(2, list(of_kind.values()).count(kind))
            assert all(of_kind[line] == kind for line in lines)
            drawn |= {(int(image_id), line) for line in lines}
            kinds.add(kind)
    assert kinds == {"description", "relation", "converse"}
    assert len({image_id for image_id, _ in drawn}) < len(drawn) / 2, "always the same two of a record"


def test_without_them_the_batch_is_the_same_bit_for_bit(cfg):
    for without, with_them in zip(batches(cfg, drawing(cfg, 0)), batches(cfg, drawing(cfg, 1)), strict=True):
        assert without.wrong_ids is None
        again = dataclasses.replace(with_them, wrong_ids=None, wrong_mask=None)
        jax.tree.map(np.testing.assert_array_equal, without, again)


def test_a_stage_that_reads_no_wrong_caption_draws_none(cfg):
    """`itc` embeds them, `cycle` reads true pairs only."""
    assert batches(cfg, drawing(cfg, 2, losses=("itc",)), count=1)[0].wrong_ids is not None
    assert batches(cfg, drawing(cfg, 2, losses=("cycle",)), count=1)[0].wrong_ids is None


def test_rows_that_a_record_lacks_are_masked_and_unusable_captions_left_out(cfg):
    draw = wrong_captions.DrawWrong(text.load(cfg.data, cfg.text), 3)
    lines = ["a red circle", " ", "two blue squares"]
    drawn = draw([wrong_captions.Wrong("", line) for line in lines], "caption", np.random.default_rng(0))
    assert drawn["wrong_mask"].any(axis=1).tolist() == [True, True, False]
    assert drawn["wrong_ids"].shape == drawn["wrong_mask"].shape == (3, cfg.text.length)


def test_a_data_set_without_wrong_captions_is_refused(cfg):
    records = [{**record, "wrong_captions": []} for record in pipeline.open_split(cfg.data, cfg.data.train_split)]
    with pytest.raises(ConfigError, match=r"task\.wrong_captions is 2, but the records of 'shapes' have no wrong cap"):
        pipeline.train(cfg, drawing(cfg, 2), seed_stream="test", records=records)


class Damaged(list):
    """Records of which the first cannot be read."""

    def __getitem__(self, index):
        if index == 0:
            raise BrokenError("a damaged record")
        return super().__getitem__(index)


def test_a_damaged_first_record_does_not_stop_the_run(cfg):
    records = Damaged(pipeline.open_split(cfg.data, cfg.data.train_split))
    assert wrong_captions.draw_of(records, "shapes", text.load(cfg.data, cfg.text), drawing(cfg, 2)) is not None
