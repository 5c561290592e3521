"""The pipeline against a shapes set prepared for the test; the oracle is mostly the pipeline read another way."""

import dataclasses
from multiprocessing.reduction import ForkingPickler

import jax
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError, objectives
from bridge_jax.data import image, pipeline, questions, shapes, text
from bridge_jax.data.records import caption_weights, fingerprint
from configs import shapes as shapes_config
from tools import prepare_data

NUM_TRAIN = 48
STREAM = "align"


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> config.Config:
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare_data.prepare("shapes", str(data_dir), num_train=NUM_TRAIN, seed=0)
    settings = shapes_config.get_config()
    settings.vision.patch_px, settings.vision.position_grid, settings.text.length = 8, 8, 24  # as these tests count
    settings.data.update(data_dir=str(data_dir), crop_area=(0.5, 1.0), threads=2, prefetch_batches=2)
    settings.losses.update(
        mlm=dict(weight=1.0, mask_fraction=0.15), mim=dict(weight=1.0, target="pixels", mask_fraction=0.4)
    )
    return config.parse(settings)


def stage_of(cfg, **changes):
    settings = dict(batch_size=16, losses=("itc",), group_examples=2, caption_kinds=()) | changes
    return dataclasses.replace(cfg.stages["align"], **settings)


def with_data(cfg, **changes):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **changes))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_batch_has_the_fields_that_the_losses_ask_for(cfg):
    batch = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM)[0]
    assert batch.images.shape == (16, 64, 64, 3)
    assert batch.images.dtype == np.uint8
    assert batch.ids.shape == batch.text_mask.shape == (16, 24)
    assert (batch.ids.dtype, batch.text_mask.dtype, batch.image_ids.dtype) == (np.int32, bool, np.int32)
    assert batch.extras == {}
    batch = pipeline.train(cfg, stage_of(cfg, losses=("mlm", "mim")), seed_stream=STREAM)[0]
    assert batch.extras["masked_text"].any(axis=1).all()
    assert not (batch.extras["masked_text"] & ~batch.text_mask).any()
    np.testing.assert_array_equal(batch.extras["masked_patches"].sum(axis=1), round(0.4 * 64))


@pytest.mark.parametrize("name", [name for name in objectives.known() if objectives.needs(name).fields])
def test_what_makes_the_fields_of_a_loss_goes_to_worker_processes(cfg, name):
    fields = objectives.needs(name).fields
    assert fields is not None
    ForkingPickler.dumps(fields.maker(cfg, text.load(cfg.data, cfg.text)))


def test_a_row_is_its_record(cfg):
    records = pipeline.open_split(cfg.data, "train")
    by_id = {record["image_id"]: record for record in records}
    tokenizer = text.load(cfg.data, cfg.text)
    whole = with_data(cfg, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    batch = pipeline.train(whole, stage_of(cfg), seed_stream=STREAM)[1]
    for row in range(16):
        record = by_id[int(batch.image_ids[row])]
        assert tokenizer.decode(batch.ids[row]) in record["captions"]
        np.testing.assert_array_equal(batch.images[row], image.eval_view(record["image"], 64))


def test_a_row_of_a_stage_on_questions_is_a_question_of_its_record(cfg):
    records = {record["image_id"]: record for record in pipeline.open_split(cfg.data, "train")}
    tokenizer, seen = text.load(cfg.data, cfg.text), set()
    asked = dataclasses.replace(cfg, losses={"vqa": {"weight": 1.0, "answers": 17}})
    known = questions.load_answers(asked)
    ds = pipeline.train(asked, stage_of(cfg, losses=("vqa",)), seed_stream=STREAM)
    for batch in (ds[step] for step in range(3)):
        for row, scores in enumerate(batch.extras["answer_scores"]):
            record = records[int(batch.image_ids[row])]
            (question,) = [q for q in record["questions"] if q.text == tokenizer.decode(batch.ids[row])]
            assert known[scores.argmax()] == question.answers[0]
            assert sorted(scores) == [0] * 16 + [1]
            seen.add(question.kind)
    assert seen == {"colour", "count", "relation", "shape", "size"}
    only = pipeline.train(asked, stage_of(cfg, losses=("vqa",), caption_kinds=("relation",)), seed_stream=STREAM)[0]
    assert set(only.extras["answer_scores"].argmax(axis=1)) == {known.index("yes"), known.index("no")}
    with pytest.raises(ConfigError, match=r"has only \['colour', .*'size'\] among its questions"):
        pipeline.train(asked, stage_of(cfg, losses=("vqa",), caption_kinds=("age",)), seed_stream=STREAM)[0]


def test_a_step_is_a_pure_function_of_seed_stream_and_step(cfg):
    stage = stage_of(cfg)
    ds = pipeline.train(cfg, stage, seed_stream=STREAM)
    later = ds[7]
    assert_same(pipeline.train(cfg, stage, seed_stream=STREAM)[7], later)
    [ds[step] for step in range(3)]
    assert_same(ds[7], later)
    for other in (
        pipeline.train(cfg, stage, seed_stream="task"),
        pipeline.train(dataclasses.replace(cfg, seed=1), stage, seed_stream=STREAM),
    ):
        assert not np.array_equal(other[7].image_ids, later.image_ids)


def test_every_epoch_shows_every_record_once_and_in_another_order(cfg):
    ds = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM)
    epochs = [np.concatenate([ds[step].image_ids for step in range(first, first + 3)]) for first in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_TRAIN))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_a_record_gets_another_crop_and_caption_in_another_epoch(cfg):
    ds = pipeline.train(cfg, stage_of(cfg, batch_size=NUM_TRAIN), seed_stream=STREAM)
    first, second = ds[0], ds[1]
    one, two = np.argsort(first.image_ids), np.argsort(second.image_ids)
    same_crop = (first.images[one] == second.images[two]).all(axis=(1, 2, 3))
    same_caption = (first.ids[one] == second.ids[two]).all(axis=1)
    assert same_crop.mean() < 0.2
    assert same_caption.mean() < 0.5


def test_the_shuffle_keeps_a_scene_beside_its_mirror(cfg):
    ids = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM)[4].image_ids
    np.testing.assert_array_equal(ids[1::2], ids[::2] + 1)
    assert (ids[::2] % 2 == 0).all()
    alone = pipeline.train(cfg, stage_of(cfg, group_examples=1), seed_stream=STREAM)[4].image_ids
    assert not np.array_equal(alone[1::2], alone[::2] + 1)


def test_a_stage_draws_the_kinds_of_captions_that_it_names(cfg):
    tokenizer = text.load(cfg.data, cfg.text)
    ds = pipeline.train(cfg, stage_of(cfg, caption_kinds=("relation",)), seed_stream=STREAM)
    said = {tokenizer.decode(row) for step in range(6) for row in ds[step].ids}
    forth = [words for words, _ in shapes.RELATIONS.values()]
    assert all(any(f" {words} " in caption for words in forth) for caption in said)
    with pytest.raises(config.ConfigError, match=r"caption_kinds \('relations',\): .* has only \['converse', 'descr"):
        pipeline.train(cfg, stage_of(cfg, caption_kinds=("relations",)), seed_stream=STREAM)[0]


def test_kinds_are_drawn_by_their_shares(cfg):
    """Of 640 captions 10 %, 30 % and 60 %, within three deviations; the captions of a kind alike."""
    tokenizer, kinds = text.load(cfg.data, cfg.text), ("description", "relation", "converse")
    ds = pipeline.train(cfg, stage_of(cfg, caption_kinds=kinds, kind_shares=(1.0, 3.0, 6.0)), seed_stream=STREAM)
    said = [tokenizer.decode(row) for step in range(40) for row in ds[step].ids]
    words = {
        kind: [pair[side] for pair in shapes.RELATIONS.values()] for kind, side in zip(kinds[1:], (0, 1), strict=True)
    }
    found = {kind: sum(any(f" {word} " in caption for word in words[kind]) for caption in said) for kind in words}
    for kind, share in (("relation", 0.3), ("converse", 0.6)):
        assert abs(found[kind] / len(said) - share) < 3 * (share * (1 - share) / len(said)) ** 0.5
    placed = sum(
        caption.startswith("a picture of ") for caption in said if any(f" {w} " in caption for w in words["converse"])
    )
    assert abs(placed / found["converse"] - 0.5) < 3 * (0.25 / found["converse"]) ** 0.5


def test_a_kind_that_a_record_lacks_leaves_its_share_to_the_others():
    record = dict(caption_kinds=["x", "y", "y"], questions=[], statements=[])
    weights = caption_weights(record, [0, 1, 2], ("z", "y", "x"), (8.0, 1.0, 3.0))
    np.testing.assert_allclose(weights, [0.75, 0.125, 0.125])
    assert caption_weights(record, [0, 1, 2], (), ()) is None


@pytest.mark.parametrize("rows", [range(8), range(8, 16), [0, 1, 6, 7, 12, 13]])
def test_a_host_reads_its_rows_of_the_global_batch(cfg, rows):
    stage = stage_of(cfg, losses=("mlm", "mim"))
    whole = pipeline.train(cfg, stage, seed_stream=STREAM)[5]
    own = pipeline.train(cfg, stage, seed_stream=STREAM, rows=rows)[5]
    assert_same(own, jax.tree.map(lambda leaf: leaf[list(rows)], whole))


def test_a_host_decodes_its_rows_of_the_pictures(cfg):
    """The last batch, too, which is filled up."""
    rows = [1, 4, 5]
    for (own, *others), (whole, *expected) in zip(
        pipeline.images(cfg, "val", 6, rows), pipeline.images(cfg, "val", 6), strict=True
    ):
        np.testing.assert_array_equal(own, whole[rows])
        for one, other in zip(others, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_changes_nothing(cfg, workers):
    ds = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM)
    ahead = pipeline.batches(ds, 3, with_data(cfg, workers=workers).data)
    try:
        for step in range(3, 8):
            assert_same(next(ahead), ds[step])
    finally:
        ahead.close()


def test_another_make_example_gets_the_record_index_and_the_same_generator(cfg):
    def make(index, generator):
        return {"image_ids": np.int32(index), "lower_image": generator.random(2), "text_mask": np.ones(3, bool)}

    first = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM, make_example=make)[2]
    second = pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM, make_example=make)[2]
    assert first.images is None
    assert first.lower_image.shape == (16, 2)
    assert_same(first, second)
    np.testing.assert_array_equal(first.image_ids, pipeline.train(cfg, stage_of(cfg), seed_stream=STREAM)[2].image_ids)
    assert len(np.unique(first.lower_image)) == 32


def test_images_come_in_record_order_and_padded(cfg):
    records = pipeline.open_split(cfg.data, "val")
    batches = list(pipeline.images(cfg, "val", 100))
    assert [valid.sum() for _, _, valid in batches] == [100, 100, 56]
    assert all(images.shape == (100, 64, 64, 3) for images, _, _ in batches)
    ids = np.concatenate([ids[valid] for _, ids, valid in batches])
    np.testing.assert_array_equal(ids, [record["image_id"] for record in records])
    np.testing.assert_array_equal(batches[2][0][55], image.eval_view(records[255]["image"], 64))
    ((images, ids, valid),) = pipeline.images(cfg, "val", 4, order=[7, 255, 7])
    assert (ids.tolist(), valid.tolist()) == ([records[i]["image_id"] for i in (7, 255, 7, 7)], [True] * 3 + [False])
    np.testing.assert_array_equal(images[1], batches[2][0][55])


def test_captions_come_in_record_order_and_padded(cfg):
    records = list(pipeline.open_split(cfg.data, "val"))
    tokenizer = text.load(cfg.data, cfg.text)
    said, owners, kinds = [], [], []
    for ids, mask, image_ids, part, valid in pipeline.captions(cfg, "val", 1000):
        assert ids.shape == mask.shape == (1000, 24)
        assert len(part) == 1000
        said += [tokenizer.decode(row) for row in ids[valid]]
        owners += list(image_ids[valid])
        kinds += [kind for kind, good in zip(part, valid, strict=True) if good]
    assert said == [caption for record in records for caption in record["captions"]]
    assert owners == [record["image_id"] for record in records for _ in record["captions"]]
    assert kinds == [kind for record in records for kind in record["caption_kinds"]]


def test_the_fingerprint_follows_the_content(cfg, tmp_path):
    marks = {split: fingerprint(cfg.data, split) for split in ("train", "val")}
    assert marks["train"] != marks["val"]
    for seed, same in ((0, True), (1, False)):
        prepare_data.prepare("shapes", str(tmp_path / str(seed)), num_train=NUM_TRAIN, seed=seed)
        again = with_data(cfg, data_dir=str(tmp_path / str(seed)))
        assert (fingerprint(again.data, "train") == marks["train"]) is same


def test_what_cannot_work_is_one_clear_line(cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"not prepared in .*run python -m tools.prepare_data --dataset=shapes"):
        pipeline.open_split(with_data(cfg, data_dir=str(tmp_path)).data, "train")
    with pytest.raises(ConfigError, match=r"not prepared .*--dataset=flickr8k --raw_dir=DIR"):
        pipeline.open_split(with_data(cfg, dataset="flickr8k").data, "train")
    with pytest.raises(ConfigError, match=r"'shape' is not a data set; nearest: 'shapes'"):
        pipeline.open_split(with_data(cfg, dataset="shape").data, "train")
    with pytest.raises(ConfigError, match=r"no split 'valid'; nearest: 'val'"):
        pipeline.open_split(cfg.data, "valid")
    with pytest.raises(ConfigError, match="group_examples 5 does not divide the 48 records"):
        pipeline.train(cfg, stage_of(cfg, group_examples=5), seed_stream=STREAM)


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train[1::2]", slice(1, None, 2)),
        ("train[:5]", slice(5)),
        ("train[-3:]", slice(-3, None)),
        ("train[:]", slice(None)),
    ],
)
def test_a_part_of_a_split_is_pythons(cfg, split, rows):
    whole = list(pipeline.open_split(cfg.data, "train"))
    assert list(pipeline.open_split(cfg.data, split)) == whole[rows]
    assert (fingerprint(cfg.data, split) == fingerprint(cfg.data, "train")) is (split == "train")


def test_a_part_of_the_training_split_is_trained_on(cfg):
    drawn = with_data(cfg, train_split="train[:16]")
    batches = pipeline.train(drawn, stage_of(drawn), seed_stream=STREAM)
    first = {record["image_id"] for record in pipeline.open_split(cfg.data, "train[:16]")}
    assert set(batches[0].image_ids) | set(batches[1].image_ids) == first


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("train[48:]", r"'train\[48:\]' of 'shapes' holds no record"),
        ("trian[:4]", r"has no split 'trian\[:4\]'; nearest: 'train'"),
        ("train[::0]", r"has no split 'train\[::0\]'"),
        ("train[:50%]", r"has no split 'train\[:50%\]'"),
    ],
)
def test_a_part_that_is_none_is_named(cfg, split, says):
    with pytest.raises(ConfigError, match=says):
        pipeline.open_split(cfg.data, split)
