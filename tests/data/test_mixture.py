"""A mixture of data sets: drawn from as often as its shares say, and a function of the step like everything else."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline
from bridge_jax.data.records import Joined, open_split, open_training
from tests.data.test_pairs import shard, tar
from tools import prepare_data

SHARES = {"shapes": 0.75, "cc3m": 0.25}


@pytest.fixture(scope="module")
def cfg(tiny, small_shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "shapes").symlink_to(small_shapes / "shapes")
    tar(folder / "0.tar", shard("abcdefg"))
    prepare_data.prepare("cc3m", str(folder), raw_dir=str(folder), workers=1)
    settings = tiny()
    settings.data.update(data_dir=str(folder), mixture=tuple(SHARES.items()))
    settings.stage_order = ("stabilise",)
    return config.parse(settings)


def batches(cfg, count, **changes):
    return [pipeline.train(cfg, cfg.stages["stabilise"], seed_stream="mixed", **changes)[step] for step in range(count)]


def test_the_records_are_those_of_both_and_no_id_is_used_twice(cfg):
    records = open_training(cfg.data)
    assert isinstance(records, Joined)
    assert records.sizes == (32, 7)
    assert len({record["image_id"] for record in records}) == len(records) == 39
    parts = [open_split(dataclasses.replace(cfg.data, dataset=name), "train") for name in SHARES]
    for index in (0, 31, 32, 38):
        own = parts[0][index] if index < 32 else parts[1][index - 32]
        assert records[index]["image"] == own["image"]
    with pytest.raises(IndexError):
        records[39]


def test_each_is_drawn_from_as_often_as_its_share_says_and_every_record_once_an_epoch(cfg):
    rows = np.concatenate([batch.image_ids for batch in batches(cfg, 16)])
    of_set = np.bincount(rows % 2)
    np.testing.assert_array_equal(of_set, [0.75 * len(rows), 0.25 * len(rows)])
    for which, size in enumerate((32, 7)):
        drawn = rows[rows % 2 == which]
        for epoch in range(len(drawn) // size):
            part = collections.Counter(drawn[epoch * size : (epoch + 1) * size].tolist())
            assert len(part) == size, "a record twice in one epoch"
        first, second = drawn[:size], drawn[size : 2 * size]
        assert which == 0 or first.tolist() != second.tolist()


def test_a_step_is_the_same_wherever_it_is_drawn_from(cfg):
    whole = batches(cfg, 4)
    iterator = pipeline.batches(pipeline.train(cfg, cfg.stages["stabilise"], seed_stream="mixed"), 2, cfg.data)
    for expected in whole[2:]:
        jax.tree.map(np.testing.assert_array_equal, next(iterator), expected)
    iterator.close()
    halves = [batches(cfg, 4, rows=range(start, 8, 2)) for start in range(2)]
    for step, expected in enumerate(whole):
        for start in range(2):
            jax.tree.map(lambda a, b, s=start: np.testing.assert_array_equal(a, b[s::2]), halves[start][step], expected)


def test_what_cannot_be_mixed_is_refused(tiny):
    settings = tiny()
    settings.data.mixture = tuple(SHARES.items())
    with pytest.raises(ConfigError, match=r"config\.stages\.align: with config\.data\.mixture .* group_examples=1"):
        config.parse(settings)
    settings.stage_order = ("stabilise",)
    settings.data.mixture = (("shapes", 0.5), ("nowhere", 0.5))
    with pytest.raises(ConfigError, match="'nowhere' is not a data set"):
        open_training(config.parse(settings).data)
