"""The procedural set: scenes of coloured shapes with sizes, counts and one spatial relation, and captions of them.

A scene holds two groups of equal objects, one in each half of a plain square: left and right, or above and below. Its
*mirror* has the same groups with their places swapped. So every description is true of both, and every relation caption
of one is false of the other. A pooled pair of towers confuses the two; a bridge should not. Its *twin* has the
same groups in the same places with their colours or sizes exchanged. Both hold the same words, and only who owns which
differs.

>>> scene = place((Group(2, "small", "red", "circle"), Group(1, "large", "blue", "square")), "horizontal", generator)
>>> [c.text for c in captions(scene)][-1]
'one large blue square right of two small red circles'

Everything here is a pure function of its arguments and the generator. A scene keeps its whole state and travels as JSON
with its record, so questions ("how many red circles?") and statements about two pictures can be written from it.
"""

import dataclasses
import io
import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from bridge_jax import rng
from bridge_jax.config import ConfigError, as_json

CANVAS_PX = 64
BACKGROUND = (235, 235, 235)
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 150, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 205, 20),
    "purple": (150, 50, 170),
    "black": (20, 20, 20),
}
# An object stands in the middle of its cell, one patch of configs/shapes.py; so a model learns shapes in minutes.
CELL_PX = 16
SIZES_PX = {"small": 9, "large": 14}  # side or diameter of one object
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
COUNTS = {1: "one", 2: "two", 3: "three"}
RELATIONS = {"horizontal": ("left of", "right of"), "vertical": ("above", "below")}  # first to second, and back
HELD_OUT_SCENES = 256  # in each of val and test
HELD_OUT_PAIRS = 128  # pairs of mirrors in each of val_relations and test_relations, of twins in each of BINDING_SPLITS
BINDING_SPLITS = ("val_bindings", "test_bindings")
EXCHANGED = ("colour", "size")  # what twins exchange
_DESCRIPTIONS = ("{} and {}", "{} with {}", "a picture of {} and {}")
_DESCRIPTIONS_EACH = 4  # chosen from the phrasings x 2 orders
_STATEMENTS = ("{} {} {}", "a picture of {} {} {}")
_HALVES = ((0, 1), (2, 3))  # cells of each half along the axis
_OVERSAMPLE = 4


@dataclasses.dataclass(frozen=True, order=True)
class Group:
    """Equal objects that stand together."""

    count: int
    size: str
    colour: str
    shape: str

    def phrase(self) -> str:
        """Return the words of the group: "two small red circles"."""
        noun = self.shape if self.count == 1 else PLURALS[self.shape]
        return f"{COUNTS[self.count]} {self.size} {self.colour} {noun}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """Two groups; the first stands left of the second ("horizontal") or above it ("vertical")."""

    axis: str
    groups: tuple[Group, Group]
    centres: tuple[tuple[tuple[int, int], ...], ...]  # per group, per object: x, y in pixels, y downwards

    def mirror(self) -> "Scene":
        """Return the scene with the groups' places swapped. Objects keep their own orientation."""
        last = CANVAS_PX - 1
        flip = (lambda c: (last - c[0], c[1])) if self.axis == "horizontal" else (lambda c: (c[0], last - c[1]))
        centres = tuple(tuple(flip(c) for c in group) for group in reversed(self.centres))
        return Scene(self.axis, (self.groups[1], self.groups[0]), centres)

    def twin(self, attribute: str) -> "Scene":
        """Return the scene with one attribute of the two groups exchanged."""
        return dataclasses.replace(self, groups=exchange(self.groups, attribute))

    def to_json(self) -> str:
        groups = [{**dataclasses.asdict(g), "centres": c} for g, c in zip(self.groups, self.centres, strict=True)]
        return json.dumps({"axis": self.axis, "groups": groups})

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        scene = as_json.loads(text)
        groups = [Group(g["count"], g["size"], g["colour"], g["shape"]) for g in scene["groups"]]
        centres = tuple(tuple((x, y) for x, y in g["centres"]) for g in scene["groups"])
        return cls(scene["axis"], (groups[0], groups[1]), centres)


def exchange(groups: tuple[Group, Group], attribute: str) -> tuple[Group, Group]:
    """Return the groups with their values of `attribute` exchanged."""
    first, second = ({attribute: getattr(group, attribute)} for group in groups)
    return dataclasses.replace(groups[0], **second), dataclasses.replace(groups[1], **first)


class Caption(NamedTuple):
    kind: str  # "description", "relation" or "converse"
    text: str


def place(groups: tuple[Group, Group], axis: str, generator: np.random.Generator) -> Scene:
    """Return a scene with each group at a random place in its half: a line of cells across the axis, a little ragged.

    The lines overlap, so groups that stand left and right of each other do not also stand above each other.
    """
    cells = CANVAS_PX // CELL_PX
    centres, before = [], range(cells)
    for group, half in zip(groups, _HALVES, strict=True):
        along = half[int(generator.integers(len(half)))]
        lowest, highest = max(0, before[0] - group.count + 1), min(cells - group.count, before[-1])
        start = int(generator.integers(lowest, highest + 1))
        before = range(start, start + group.count)
        ragged = CELL_PX // 2 + generator.integers(-1, 1, size=(group.count, 2))
        points = [
            (CELL_PX * along + int(a), CELL_PX * cell + int(b)) for cell, (a, b) in zip(before, ragged, strict=True)
        ]
        centres.append(tuple(points if axis == "horizontal" else [point[::-1] for point in points]))
    return Scene(axis, groups, tuple(centres))


def captions(scene: Scene) -> list[Caption]:
    """Return true captions of the scene: descriptions, true of its mirror too, then relations, false of its mirror."""
    return descriptions(scene.groups) + relations(scene)


def descriptions(groups: Sequence[Group]) -> list[Caption]:
    """Return captions that name both groups but not their places; they are the same for either order of the groups."""
    first, second = sorted(groups)
    everything = [
        phrasing.format(a.phrase(), b.phrase())
        for phrasing in _DESCRIPTIONS
        for a, b in ((first, second), (second, first))
    ]
    generator = np.random.default_rng(rng.stream_seed(0, f"shapes/{first}/{second}"))
    chosen = generator.choice(len(everything), _DESCRIPTIONS_EACH, replace=False)
    return [Caption("description", everything[i]) for i in sorted(chosen)]


def relations(scene: Scene) -> list[Caption]:
    """Return captions that say where the groups stand: "left of", "above", and as the converse "right of", "below".

    They ask different things of a model. Whether "A left of B" is true depends on the group named first and the group
    that stands left: two bits to compare. With the converse beside it the word counts too, and three bits are far
    harder to learn from few examples than two.
    """
    first, second = (group.phrase() for group in scene.groups)
    forth, back = RELATIONS[scene.axis]
    return [
        Caption(kind, phrasing.format(*words))
        for phrasing in reversed(_STATEMENTS)
        for kind, words in (("relation", (first, forth, second)), ("converse", (second, back, first)))
    ]


def is_true(caption: str, scene: Scene) -> bool:
    """Return whether a caption is true of the scene: word for word one of all its possible captions."""
    both = (scene.groups, scene.groups[::-1])
    true = [phrasing.format(*(group.phrase() for group in groups)) for phrasing in _DESCRIPTIONS for groups in both]
    return caption in (*true, *(relation.text for relation in relations(scene)))


def wrong_captions(scene: Scene) -> list[Caption]:
    """Return hard false captions: true ones of the mirror and of the twins, which hold the same words."""
    others = [scene.mirror(), *map(scene.twin, EXCHANGED)]
    possible = dict.fromkeys(caption for other in others for caption in captions(other))
    return [caption for caption in possible if not is_true(caption.text, scene)]


def render(scene: Scene) -> bytes:
    """Return the scene as a PNG of CANVAS_PX x CANVAS_PX, edges antialiased."""
    side = CANVAS_PX * _OVERSAMPLE
    image = Image.new("RGB", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for group, centres in zip(scene.groups, scene.centres, strict=True):
        for x, y in centres:
            _draw(draw, group, (x + 0.5) * _OVERSAMPLE, (y + 0.5) * _OVERSAMPLE)
    encoded = io.BytesIO()
    image.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BOX).save(encoded, "PNG")
    return encoded.getvalue()


def _draw(draw: ImageDraw.ImageDraw, group: Group, x: float, y: float) -> None:
    r, colour = SIZES_PX[group.size] * _OVERSAMPLE / 2, COLOURS[group.colour]
    if group.shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif group.shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    elif group.shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    else:
        draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=colour)
        draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=colour)


def all_groups() -> list[Group]:
    """Return every group that can occur, in a fixed order."""
    return [Group(*parts) for parts in itertools.product(COUNTS, SIZES_PX, COLOURS, PLURALS)]


def attribute_sets() -> list[tuple[Group, Group]]:
    """Return every pair of groups that differ in shape or colour, so that captions tell them apart."""
    pairs = itertools.combinations(all_groups(), 2)
    return [(a, b) for a, b in pairs if (a.shape, a.colour) != (b.shape, b.colour)]


def splits(num_train: int, seed: int) -> dict[str, list[Scene]]:
    """Return split -> scenes. The held-out splits depend on `seed` alone.

    `train` and the `_relations` hold mirrored pairs: record 2i and its mirror 2i+1. The `_bindings` hold twins in the
    same way. `val` and `test` hold neither, and no two of their scenes share an attribute set (the pair of groups), so
    no two share a description. Attribute sets of a held-out split occur nowhere else. Raises ConfigError where
    `num_train` is odd or exceeds the scenes that the remaining attribute sets allow.
    """
    sets = attribute_sets()
    order = np.random.default_rng(rng.stream_seed(seed, "shapes/sets")).permutation(len(sets))
    held_out = 2 * (HELD_OUT_SCENES + HELD_OUT_PAIRS)
    twins = 2 * HELD_OUT_PAIRS * len(BINDING_SPLITS)
    most = 4 * (len(sets) - held_out - twins)  # two axes, two mirrors
    if num_train % 2 or not 2 <= num_train <= most:
        raise ConfigError(f"--num_train is {num_train}; expected an even number from 2 to {most}")
    ranks = iter(order[:held_out])
    made = {}
    for name, count, mirrored in (
        ("val", HELD_OUT_SCENES, False),
        ("test", HELD_OUT_SCENES, False),
        ("val_relations", HELD_OUT_PAIRS, True),
        ("test_relations", HELD_OUT_PAIRS, True),
    ):
        generator = np.random.default_rng(rng.stream_seed(seed, f"shapes/{name}"))
        axes = generator.choice(list(RELATIONS), count)
        made[name] = _scenes([(sets[next(ranks)], str(axis)) for axis in axes], mirrored, generator)
    free = {frozenset(sets[i]): sets[i] for i in order[held_out:]}
    for name in BINDING_SPLITS:
        made[name] = _twins(free, np.random.default_rng(rng.stream_seed(seed, f"shapes/{name}")))
    generator = np.random.default_rng(rng.stream_seed(seed, "shapes/train"))
    every = [(groups, axis) for groups in free.values() for axis in RELATIONS]
    chosen = generator.choice(len(every), num_train // 2, replace=False)
    return {"train": _scenes([every[i] for i in chosen], True, generator), **made}


def _twins(free: dict[frozenset[Group], tuple[Group, Group]], generator: np.random.Generator) -> list[Scene]:
    """Return pairs of twins, scenes 2i and 2i+1, and take their attribute sets out of `free`."""
    scenes = []
    for groups in list(free.values()):
        attribute, axis = str(generator.choice(EXCHANGED)), str(generator.choice(list(RELATIONS)))
        these, exchanged = frozenset(groups), frozenset(exchange(groups, attribute))
        if these != exchanged and these in free and exchanged in free:
            del free[these], free[exchanged]
            (scene,) = _scenes([(groups, axis)], False, generator)
            scenes += [scene, scene.twin(attribute)]
        if len(scenes) == 2 * HELD_OUT_PAIRS:
            break
    return scenes


def _scenes(
    contents: Sequence[tuple[tuple[Group, Group], str]], mirrored: bool, generator: np.random.Generator
) -> list[Scene]:
    scenes = []
    for (first, second), axis in contents:
        groups = (first, second) if generator.random() < 0.5 else (second, first)
        scene = place(groups, axis, generator)
        scenes += [scene, scene.mirror()] if mirrored else [scene]
    return scenes
