"""Oracle that shares no code with the writer: a statement is parsed and judged from the objects of both scenes."""

import collections
import itertools
import re

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.data import pipeline, prepared, shapes, shapes_statements, text
from bridge_jax.data.records import open_split
from configs import shapes as shapes_config


@pytest.fixture(scope="module")
def splits():
    return {name: shapes_statements.pairs(scenes, 7) for name, scenes in shapes.splits(4000, 0).items()}


def shows(scene, colour):
    return any(group.colour == colour for group in scene.groups)


def judge(said, left, right):
    scenes = {"left": left, "right": right}
    found = re.fullmatch(
        r"(both pictures show|neither picture shows|exactly one picture shows|the (left|right) picture shows) "
        r"something (\w+) \.",
        said,
    )
    assert found, said
    number = sum(shows(scene, found[3]) for scene in scenes.values())
    if found[2]:
        return shows(scenes[found[2]], found[3])
    return number == {"both": 2, "neither": 0, "exactly": 1}[found[1].split()[0]]


def test_every_judgement_is_right(splits):
    for pair in itertools.chain.from_iterable(splits.values()):
        assert [one.kind for one in pair.statements] == ["both", "neither", "one", "side"]
        for one in pair.statements:
            assert one.is_true == judge(one.text, pair.left, pair.right), one


def test_the_words_do_not_tell(splits):
    """Half of every kind is true, and so it is of the statements about a colour or a side."""
    of_words = collections.defaultdict(list)
    for one in (one for pair in splits["train"] for one in pair.statements):
        for word in one.text.split():
            of_words[one.kind, word].append(one.is_true)
    for key, values in of_words.items():
        assert abs(np.mean(values) - 0.5) < 3.5 * 0.5 / np.sqrt(len(values)), (key, len(values), np.mean(values))


def test_one_picture_tells_nothing_of_one_and_as_little_as_can_be_of_the_rest():
    """What the best guess from the words and whether one picture alone shows the colour gets right."""
    pairs = shapes_statements.pairs(shapes.splits(8000, 0)["train"], 7)  # 4,000 scatter by 0.015
    for shown in (0, 1):
        seen = collections.defaultdict(list)
        for pair in pairs:
            scene = (pair.left, pair.right)[shown]
            for one in pair.statements:
                colour = one.text.split()[-2]
                seen[one.kind, one.text.split()[1], shows(scene, colour)].append(one.is_true)
        best = collections.Counter()
        for (kind, *_), values in seen.items():
            best[kind] += max(sum(values), len(values) - sum(values)) / len(pairs)
        assert best["one"] < 0.53
        for kind in ("both", "neither", "side"):  # of side all of one picture, nothing of the other
            assert best[kind] == pytest.approx(0.75, abs=0.03)


def test_the_second_picture_is_of_the_same_split_and_shares_one_colour_in_half(splits):
    for name, pairs in splits.items():
        scenes = [pair.left for pair in pairs]
        assert all(pair.right in scenes[:300] or name == "train" for pair in pairs)
        shared = [len({g.colour for g in p.left.groups} & {g.colour for g in p.right.groups}) for p in pairs]
        assert set(shared) == {0, 1}
        assert abs(np.mean(shared) - 0.5) < 0.1


def test_the_same_seed_gives_the_same_pairs_and_held_out_ones_do_not_depend_on_train(splits):
    again = shapes_statements.pairs(shapes.splits(20, 0)["val"], 7)
    assert again == splits["val"]
    assert shapes_statements.pairs([pair.left for pair in again], 8) != again


def test_a_split_too_small_for_a_partner_still_says_what_is_true():
    for pair in shapes_statements.pairs(shapes.splits(2, 0)["train"], 0):
        assert all(one.is_true == judge(one.text, pair.left, pair.right) for one in pair.statements)


@pytest.fixture(scope="module")
def cfg(small_shapes):
    settings = shapes_config.get_config("task=nlvr2")
    settings.data.data_dir = str(small_shapes)
    return config.parse(settings)


def test_records_hold_the_pair_and_its_statements(cfg):
    records = open_split(cfg.data, "val")
    assert records.pictures == 2
    made = {shapes.render(shapes.Scene.from_json(record["scene"])): record for record in records}
    for record in records:
        left, right = (shapes.Scene.from_json(made[record[key]]["scene"]) for key in ("image", "second_image"))
        for question in record["statements"]:
            assert question.answers == (str(judge(question.text, left, right)).lower(),)
    ids = [
        question.id for split in ("train", "val") for r in open_split(cfg.data, split) for question in r["statements"]
    ]
    assert len(set(ids)) == len(ids)


def test_a_row_is_a_statement_with_both_pictures_in_order(cfg):
    tokenizer, stage = text.load(cfg.data, cfg.text), cfg.stages["task"]
    records = {record["image_id"]: record for record in open_split(cfg.data, "train")}
    scenes = {record["image"]: shapes.Scene.from_json(record["scene"]) for record in records.values()}
    batch = pipeline.train(cfg, stage, seed_stream="task")[0]
    assert batch.images.shape == (64, 2, 64, 64, 3)
    seen = set()
    for row in range(64):
        record = records[int(batch.image_ids[row])]
        said = tokenizer.decode(batch.ids[row])
        left, right = (scenes[record[key]] for key in ("image", "second_image"))
        assert batch.extras["statement_true"][row] == judge(said, left, right)
        for at, scene in enumerate((left, right)):
            np.testing.assert_array_equal(batch.images[row, at], pipeline.image.eval_view(shapes.render(scene), 64))
        seen.add(said.split()[0])
    assert seen == {"both", "neither", "exactly", "the"}


def test_the_vocabulary_knows_every_statement_and_all_fit(small_shapes):
    tokenizer = text.Tokenizer(next(small_shapes.rglob(prepared.VOCABULARY)), shapes_config.get_config().text.length)
    looks = itertools.product(shapes_statements.KINDS, shapes.COLOURS, (0, 1))
    said = [shapes_statements.statement_text(*of) for of in looks]
    ids, mask = tokenizer.encode(said)
    assert not (ids == tokenizer.unk_id).any()
    assert mask.sum(axis=1).max() <= 16
    assert [tokenizer.decode(row) for row in ids] == said
