"""Oracles that share no code with the writer: captions are parsed back, and pictures are read by colour."""

import dataclasses
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bridge_jax.config import ConfigError
from bridge_jax.data import shapes

GROUP = r"(one|two|three) (small|large) (\w+) (circle|square|triangle|cross)(?:e?s)?"
CAPTION = re.compile(rf"^(?:a picture of )?{GROUP} (and|with|left of|right of|above|below) {GROUP}$")
NUMBER = {"one": 1, "two": 2, "three": 3}


@pytest.fixture(scope="module")
def splits():
    return shapes.splits(400, 0)


def parse(caption):
    match = CAPTION.match(caption)
    assert match, caption
    words = match.groups()
    return (NUMBER[words[0]], *words[1:4]), words[4], (NUMBER[words[5]], *words[6:])


def holds(caption, scene):
    """Check a caption against the objects' centres, never against the scene's own idea of its axis or order."""
    first, relation, second = parse(caption)
    places = {
        (len(centres), g.size, g.colour, g.shape): np.array(centres)
        for g, centres in zip(scene.groups, scene.centres, strict=True)
    }
    if first not in places or second not in places or first == second:
        return False
    (x1, y1), (x2, y2) = places[first].T, places[second].T
    return {
        "and": True,
        "with": True,
        "left of": x1.max() < x2.min(),
        "right of": x1.min() > x2.max(),
        "above": y1.max() < y2.min(),
        "below": y1.min() > y2.max(),
    }[relation]


def attributes(scene):
    return frozenset(scene.groups)


def test_every_caption_is_true_and_every_wrong_one_false(splits):
    for scene in itertools.chain.from_iterable(splits.values()):
        said = shapes.captions(scene)
        assert all(holds(caption.text, scene) for caption in said)
        assert not any(holds(caption, scene) for caption in shapes.wrong_captions(scene))
        assert len({caption.text for caption in said}) == len(said) == 8
        for kind, text in said:
            words = {
                "description": ("and", "with"),
                "relation": ("left of", "above"),
                "converse": ("right of", "below"),
            }
            assert parse(text)[1] in words[kind]


def test_no_other_relation_is_true(splits):
    """Of groups side by side none stands above the other."""
    for scene in itertools.chain.from_iterable(splits.values()):
        (first, second), said = (group.phrase() for group in scene.groups), {c.text for c in shapes.relations(scene)}
        cells = tuple(tuple((x // shapes.CELL_PX, y // shapes.CELL_PX) for x, y in group) for group in scene.centres)
        ordered = dataclasses.replace(scene, centres=cells)  # without what is ragged
        for word in ("left of", "right of", "above", "below"):
            for text in (f"{first} {word} {second}", f"{second} {word} {first}"):
                assert holds(text, ordered) == (text in said), text


def test_a_mirror_shares_descriptions_and_swaps_truths(splits):
    for name in ("train", "val_relations", "test_relations"):
        for scene, mirror in zip(splits[name][::2], splits[name][1::2], strict=True):
            assert mirror.mirror() == scene
            assert attributes(scene) == attributes(mirror)
            assert shapes.descriptions(scene.groups) == shapes.descriptions(mirror.groups)
            assert {caption.text for caption in shapes.relations(mirror)} <= set(shapes.wrong_captions(scene))


def test_a_wrong_caption_has_the_words_of_a_true_one(splits):
    """Only their order tells it: the relation of the mirror, or a colour or size of the other group."""
    for name in ("train", "val_bindings"):
        for scene in splits[name]:
            wrong = [sorted(caption.split()) for caption in shapes.wrong_captions(scene)]
            assert all(sorted(caption.text.split()) in wrong for caption in shapes.relations(scene))
            if name == "val_bindings":
                assert all(sorted(caption.text.split()) in wrong for caption in shapes.captions(scene))


def test_twins_share_words_and_places_and_no_caption(splits):
    """The same colours and sizes, counted over both groups; each caption of one is false of the other."""
    exchanged = []
    for name in ("val_bindings", "test_bindings"):
        for scene, twin in zip(splits[name][::2], splits[name][1::2], strict=True):
            assert (scene.axis, scene.centres) == (twin.axis, twin.centres)
            for said, other in ((scene, twin), (twin, scene)):
                assert not any(holds(caption.text, other) for caption in shapes.captions(said))
            for attribute in ("count", "size", "colour", "shape"):
                one, two = ([getattr(group, attribute) for group in s.groups] for s in (scene, twin))
                assert sorted(one) == sorted(two)
                exchanged += [attribute] * (one != two)
    assert min(exchanged.count(attribute) for attribute in ("colour", "size")) > 64
    assert exchanged.count("colour") + exchanged.count("size") == len(exchanged) == 256


def test_all_relations_and_both_directions_occur(splits):
    for scenes in splits.values():
        relations = [parse(c.text)[1] for scene in scenes for c in shapes.relations(scene)]
        shares = [relations.count(word) / len(relations) for word in ("left of", "right of", "above", "below")]
        assert min(shares) > 0.15
    one = [parse(c.text)[1] for c in shapes.relations(splits["train"][0])]
    assert sorted(set(one)) in (["left of", "right of"], ["above", "below"])


def test_held_out_splits_are_distinct_and_never_trained_on(splits):
    assert {name: len(scenes) for name, scenes in splits.items()} == {
        "train": 400, "val": 256, "test": 256, "val_relations": 256, "test_relations": 256,
        "val_bindings": 256, "test_bindings": 256,
    }  # fmt: skip
    sets = {name: [attributes(scene) for scene in scenes] for name, scenes in splits.items()}
    for name in ("val", "test"):
        assert len(set(sets[name])) == 256
        said = [c.text for scene in splits[name] for c in shapes.captions(scene)]
        assert len(set(said)) == len(said)
    for name in ("val_relations", "test_relations"):
        assert len(set(sets[name])) == 128
    for name in ("val_bindings", "test_bindings"):
        assert len(set(sets[name])) == 256
    for one, other in itertools.combinations(sets, 2):
        assert not set(sets[one]) & set(sets[other])


def test_groups_of_a_scene_can_be_told_apart():
    for first, second in shapes.attribute_sets():
        assert (first.shape, first.colour) != (second.shape, second.colour)


def pixels_of(scene):
    return np.asarray(Image.open(io.BytesIO(shapes.render(scene))).convert("RGB")).astype(int)


def test_pictures_show_the_scene(splits):
    """Find each group by its colour, count its blobs, measure them and see on which side they stand."""
    checked = 0
    for scene in splits["train"][:200]:
        if scene.groups[0].colour == scene.groups[1].colour:
            continue
        picture, middles = pixels_of(scene), []
        for group, centres in zip(scene.groups, scene.centres, strict=True):
            mask = np.abs(picture - shapes.COLOURS[group.colour]).sum(axis=-1) < 60
            blobs, count = ndimage.label(mask, structure=np.ones((3, 3)))
            assert count == group.count
            found = np.array(ndimage.center_of_mass(mask, blobs, range(1, count + 1)))[:, ::-1]
            expected = np.array(sorted(centres, key=lambda c: (c[1], c[0])))
            found = found[np.lexsort((found[:, 0].round(), found[:, 1].round()))]
            if group.shape == "triangle":  # its mass lies below the middle of its box
                expected = expected + np.array([0, shapes.SIZES_PX[group.size] / 6])
            nearest = np.abs(found[:, None] - expected[None]).sum(axis=-1).min(axis=1)
            assert (nearest < 2.5).all()
            for box in ndimage.find_objects(blobs):
                side = box[0].stop - box[0].start
                assert (side > 11) == (group.size == "large")
            middles.append(found.mean(axis=0))
        axis = 0 if scene.axis == "horizontal" else 1
        assert middles[0][axis] + 13 < middles[1][axis]
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("shape", "share"), [("circle", np.pi / 4), ("square", 1), ("triangle", 0.5), ("cross", 5 / 9)]
)
def test_shapes_have_their_area(shape, share):
    group, other = shapes.Group(1, "large", "red", shape), shapes.Group(1, "small", "blue", "square")
    scene = shapes.place((group, other), "horizontal", np.random.default_rng(0))
    darkness = (235 - pixels_of(scene)[..., 1]) / (235 - shapes.COLOURS["red"][1])
    assert darkness[:, :32].sum() == pytest.approx(share * shapes.SIZES_PX["large"] ** 2, rel=0.1)


def test_objects_lie_within_the_picture_and_apart(splits):
    for scene in splits["train"]:
        boxes = [
            (x - shapes.SIZES_PX[g.size] / 2, y - shapes.SIZES_PX[g.size] / 2, shapes.SIZES_PX[g.size])
            for g, centres in zip(scene.groups, scene.centres, strict=True)
            for x, y in centres
        ]
        assert all(v >= 0 and v + side <= 63.5 for x, y, side in boxes for v in (x, y))
        for (x1, y1, s1), (x2, y2, s2) in itertools.combinations(boxes, 2):
            assert x1 + s1 < x2 or x2 + s2 < x1 or y1 + s1 < y2 or y2 + s2 < y1


def test_scenes_are_a_pure_function_of_the_seed(splits):
    assert shapes.splits(400, 0) == splits
    assert shapes.splits(400, 1)["val"] != splits["val"]
    assert shapes.splits(20, 0)["val"] == splits["val"]  # held-out scenes do not depend on the size of train
    assert shapes.render(splits["val"][0]) == shapes.render(splits["val"][0])


def test_a_scene_travels_as_json(splits):
    for scene in splits["val"][:20]:
        assert shapes.Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize("num_train", [3, 0, 40_000])
def test_a_number_of_scenes_that_cannot_be_is_refused(num_train):
    with pytest.raises(ConfigError, match=f"--num_train is {num_train}; expected an even number from 2 to"):
        shapes.splits(num_train, 0)
