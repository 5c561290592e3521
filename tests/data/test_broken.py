"""62 bad inputs, met at preparation and met while training: each is used, or replaced and named."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import broken, pipeline, prepared, records, text
from bridge_jax.workdir import broken_log
from configs import shapes as shapes_config
from tests.data import bad_inputs
from tools import prepare_data

GOOD = 34
COUNT = GOOD + len(bad_inputs.BROKEN) + len(bad_inputs.ODD)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    assert len(bad_inputs.BROKEN) + len(bad_inputs.ODD) >= 60
    return bad_inputs.raw_folder(tmp_path_factory.mktemp("raw") / "raw", GOOD, bad_inputs.BROKEN | bad_inputs.ODD)


@pytest.fixture(scope="module")
def cfg(raw, small_shapes, tmp_path_factory) -> config.Config:
    """Training data that holds everything that is bad."""
    data_dir = tmp_path_factory.mktemp("prepared")
    bad_inputs.prepare_unchecked(data_dir, raw)
    settings = shapes_config.get_config()
    vocabulary = next(small_shapes.rglob(prepared.VOCABULARY))
    settings.data.update(dataset="flickr8k", data_dir=str(data_dir), vocabulary=str(vocabulary), flip=True)
    settings.data.update(randaugment_layers=1, threads=2, prefetch_batches=2)
    settings.losses.mlm = dict(weight=1.0, mask_fraction=0.15)
    return config.parse(settings)


@pytest.fixture(scope="module")
def stage(cfg):
    return dataclasses.replace(
        cfg.stages["align"], batch_size=COUNT // 4, losses=("itc", "mlm"), group_examples=1, caption_kinds=()
    )


@pytest.fixture(scope="module")
def epoch(cfg, stage):
    """The steps of one epoch."""
    ds = pipeline.train(cfg, stage, seed_stream="align")
    assert COUNT % 4 == 0
    return [ds[step] for step in range(4)]


def named(cfg, batches) -> dict[str, str]:
    found = pipeline.open_split(cfg.data, "train")
    refused = [row for batch in batches for row in batch.broken.tolist() if row[0] >= 0]
    return {name: fault for row in refused for name, fault, _ in [records.broken_part(found, *row)]}


def test_all_that_is_broken_is_named_and_nothing_else(cfg, epoch):
    assert named(cfg, epoch).keys() == bad_inputs.BROKEN.keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("truncated_half.jpg", "truncated"),
        ("empty.jpg", "no picture in a format"),
        ("bomb_20000.png", "Image size (400000000 pixels) exceeds limit"),
        ("pixels_20000.png", "20000 x 4001 pixels, at most 80 million are decoded"),
        ("sixteen_bits.png", "samples of more than 8 bits"),
        ("caption_empty.jpg", "an empty caption (number 1 of 1)"),
        ("caption_100000.jpg", "a caption of 99999 characters, at most 10000 are read"),
        ("caption_escape.jpg", "a caption with the control character U+001B"),
        ("caption_latin1.jpg", "a caption that is not UTF-8"),
    ],
)
def test_the_fault_is_told(cfg, epoch, name, said):
    assert said in named(cfg, epoch)[name]


def test_what_is_odd_is_used_and_what_is_broken_replaced_by_what_can_be_used(cfg, epoch):
    names = {record["image_id"]: record["filename"] for record in pipeline.open_split(cfg.data, "train")}
    drawn = collections.Counter(names[image_id] for batch in epoch for image_id in batch.image_ids.tolist())
    assert not drawn.keys() & bad_inputs.BROKEN.keys()
    assert drawn.keys() == set(names.values()) - bad_inputs.BROKEN.keys()
    assert drawn.total() == COUNT


def test_the_replacement_is_a_function_of_seed_and_step_on_any_host_and_in_any_process(cfg, stage, epoch):
    rows = [1, 2, 3, 9, 20]
    own = pipeline.train(cfg, stage, seed_stream="align", rows=rows)
    jax.tree.map(np.testing.assert_array_equal, own[2], jax.tree.map(lambda leaf: leaf[rows], epoch[2]))
    ahead = pipeline.batches(own, 1, dataclasses.replace(cfg.data, workers=1))
    try:
        jax.tree.map(np.testing.assert_array_equal, next(ahead), own[1])
        jax.tree.map(np.testing.assert_array_equal, next(ahead), own[2])
    finally:
        ahead.close()


def test_preparation_skips_and_lists_the_same(raw, tmp_path, cfg):
    with pytest.raises(ConfigError, match="more than 1% of 97 images are broken"):
        prepare_data.prepare("flickr8k", str(tmp_path), raw_dir=str(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge_jax.data.datasets.photo_records.BROKEN_LIMIT", 1.0)
        prepare_data.prepare("flickr8k", str(tmp_path), raw_dir=str(raw))
    data = dataclasses.replace(cfg.data, data_dir=str(tmp_path))
    listed = (prepared.prepared_folder(data) / prepared.SKIPPED).read_text(encoding="utf-8").splitlines()
    assert {line.split(": ")[0].rpartition("/")[2] for line in listed} == bad_inputs.BROKEN.keys()
    kept = {record["filename"] for record in pipeline.open_split(data, "train")}
    assert kept == {f"good_{i}.jpg" for i in range(GOOD)} | bad_inputs.ODD.keys()


def test_one_bad_caption_of_several_is_left_out_and_the_photo_kept():
    class Photos:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"filename": "a.jpg", "captions": ["one", "two\x00", "three"], "questions": [], "statements": []}

    def make(index, generator):
        captions = Photos()[index]["captions"]
        chosen, refused = broken.draw_caption(range(3), lambda i: text.fault(captions[i]), generator)
        return {"said": chosen, broken.REFUSED: refused}

    made = [broken.Replacing(make, 1)(0, np.random.default_rng(seed)) for seed in range(60)]
    assert {example["said"] for example in made} == {0, 2}
    refused = {tuple(example["broken"].tolist()) for example in made}
    assert refused == {(-1, -1), (0, 1)}
    assert records.broken_part(Photos(), 0, 1) == (
        "a.jpg",
        "a caption with the control character U+0000 (number 2 of 3)",
        1 / 3,
    )


def test_records_that_are_all_broken_are_an_error_and_a_machine_without_memory_is_not_the_data():
    def broken_one(index, generator):
        raise broken.BrokenError("no picture")

    def no_memory(index, generator):
        raise MemoryError

    with pytest.raises(ConfigError, match="100 records drawn at random are all broken, the last: no picture"):
        broken.Replacing(broken_one, 5)(0, np.random.default_rng(0))
    with pytest.raises(MemoryError):
        broken.Replacing(no_memory, 5)(0, np.random.default_rng(0))


def test_a_damaged_record_is_replaced_and_named(cfg, stage, tmp_path, raw):
    bad_inputs.prepare_unchecked(tmp_path, raw)
    damaged = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data_dir=str(tmp_path)))
    shard = next(prepared.prepared_folder(damaged.data).glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 8
    shard.write_bytes(content)
    read = list(records.readable(pipeline.open_split(damaged.data, "train")))
    assert read.count(None) == 1
    ds = pipeline.train(damaged, stage, seed_stream="align")
    found = named(damaged, [ds[step] for step in range(4)])
    name = f"record {read.index(None)}"
    assert found.keys() - bad_inputs.BROKEN.keys() == {name}
    assert "damaged record: Corrupted" in found[name]


def test_a_picture_of_the_evaluation_is_never_left_out(cfg):
    with pytest.raises(ConfigError, match=r"picture .* of split 'train': .*recall needs every picture: prepare 'fl"):
        list(pipeline.images(cfg, "train", COUNT))


def test_the_log_counts_parts_once_keeps_to_the_step_and_stops_at_the_limit(cfg, tmp_path):
    found = pipeline.open_split(cfg.data, "train")
    by_name = {record["filename"]: i for i, record in enumerate(found)}
    picture, caption = (by_name["empty.jpg"], -1), (by_name["caption_empty.jpg"], 0)
    log = broken_log.BrokenLog(tmp_path, 0, found, 1 / COUNT)
    assert not (tmp_path / broken_log.FILE).exists()
    (line,) = log.take(1, "align", np.array([(-1, -1), picture]))
    assert line.startswith("empty.jpg: no picture")
    assert log.take(2, "align", np.array([picture])) == []
    with pytest.raises(
        ConfigError, match=r"more than 1.04% of 96 training records are broken: empty.jpg: .*; caption_e"
    ):
        log.take(3, "align", np.array([caption]))
    assert len((tmp_path / broken_log.FILE).read_text().splitlines()) == 2
    again = broken_log.BrokenLog(tmp_path, 2, found, 1 / COUNT)
    assert again.count == 1
    assert len((tmp_path / broken_log.FILE).read_text().splitlines()) == 1
    with pytest.raises(ConfigError, match="are broken"):
        again.take(3, "align", np.array([caption]))
