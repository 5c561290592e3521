"""Statements about two pictures of shapes, true or false, from the scenes' own descriptions.

    both pictures show a red circle .                                       both
    exactly one picture shows a red circle .                                one
    the left picture shows a red circle .                                   side
    there are more red circles in the left picture than in the right .      more

Two pictures have one look (colour and shape) in common, or none, each half of the time, and which look a statement
names is drawn such that half of every kind is true, whatever its words. Of "one", a single picture says nothing either.
Of the others it must say something ("both" is false where one picture lacks the look), and as little as can be: of
"both" a single picture with the words tells three quarters, of "side" all or nothing, depending on which it is.
"""

import collections
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bridge_jax.data.questions import JUDGEMENTS, Question
from bridge_jax.data.shapes import COLOURS, PLURALS, Scene

Look = tuple[str, str]  # colour, shape
LOOKS = tuple(itertools.product(COLOURS, PLURALS))
SIDES = ("left", "right")
KINDS = ("both", "one", "side", "more")
_TRIES = 100


class Statement(NamedTuple):
    kind: str
    text: str
    is_true: bool


class Pair(NamedTuple):
    """The two pictures of a record, left and right, and a statement of every kind about them."""

    left: Scene
    right: Scene
    statements: tuple[Statement, ...]


def pairs(scenes: Sequence[Scene], seed: int) -> list[Pair]:
    """Return the pair of every record of a split; its first picture is the scene."""
    generator = np.random.default_rng(seed)
    rights = seconds(scenes, generator)
    return [Pair(*both, statements(*both, generator)) for both in zip(scenes, rights, strict=True)]


def as_questions(said: Sequence[Statement], image_id: int) -> list[Question]:
    """Return statements as they travel with their record."""
    first = image_id * len(KINDS)
    return [Question(first + i, one.text, one.kind, (JUDGEMENTS[one.is_true],)) for i, one in enumerate(said)]


def counts(scene: Scene) -> dict[Look, int]:
    """Return how many objects of each look a scene has. No two groups of a scene look alike."""
    return {(group.colour, group.shape): group.count for group in scene.groups}


def seconds(scenes: Sequence[Scene], generator: np.random.Generator) -> list[Scene]:
    """Return the second picture of every record of a split: another scene of it, so what is held out stays held out.

    Half of them have one look in common with the first, in the same size and another number, half have none. Where a
    split is too small to hold such a one, it is some scene.
    """
    of_look = collections.defaultdict(list)
    for scene in scenes:
        for look in counts(scene):
            of_look[look].append(scene)
    found = []
    for scene in scenes:
        group, alone = scene.groups[generator.integers(2)], generator.random() < 0.5
        look = (group.colour, group.shape)

        def fits(other: Scene, scene: Scene = scene, group=group, look=look, alone: bool = alone) -> bool:
            common = counts(scene).keys() & counts(other).keys()
            if alone:
                return not common
            (same,) = (g for g in other.groups if (g.colour, g.shape) == look)
            return common == {look} and same.size == group.size and same.count != group.count

        found.append(_draw(scenes if alone else of_look[look], fits, generator))
    return found


def _draw(scenes: Sequence[Scene], fits: Callable[[Scene], bool], generator: np.random.Generator) -> Scene:
    """Return a random scene that fits; any where none is met."""
    drawn = scenes[0]
    for _ in range(_TRIES):
        drawn = scenes[int(generator.integers(len(scenes)))]
        if fits(drawn):
            break
    return drawn


def statements(left: Scene, right: Scene, generator: np.random.Generator) -> tuple[Statement, ...]:
    """Return a statement of every kind about the two pictures."""
    there = (counts(left), counts(right))
    common = [look for look in LOOKS if look in there[0] and look in there[1]]
    only = [[look for look in LOOKS if look in there[i] and look not in there[1 - i]] for i in (0, 1)]
    absent = [look for look in LOOKS if look not in there[0] and look not in there[1]]

    def coin() -> int:
        return int(generator.integers(2))

    def some(*looks: Sequence[Look]) -> Look:
        """Return a random look of the first that has any."""
        choice = next(found for found in (*looks, common, *only) if found)
        return choice[int(generator.integers(len(choice)))]

    side, is_true = coin(), coin()
    drawn = {
        "both": some(common, only[coin()]),
        "one": some((common or absent) if coin() else only[coin()]),
        "side": some(common, only[side]) if is_true else some(absent if coin() else only[1 - side]),
        "more": some(common, only[coin()]),
    }
    said = []
    for kind in KINDS:
        look, at = drawn[kind], side if kind == "side" else coin()
        here, other = (there[i].get(look, 0) for i in (at, 1 - at))
        holds = {"both": here and other, "one": bool(here) != bool(other), "side": here, "more": here > other}[kind]
        said.append(Statement(kind, text_of(kind, look, at), bool(holds)))
    return tuple(said)


def text_of(kind: str, look: Look, at: int) -> str:
    """Return the words of a statement about a look; `at` is the side that it names, if it names one."""
    colour, shape = look
    return {
        "both": f"both pictures show a {colour} {shape} .",
        "one": f"exactly one picture shows a {colour} {shape} .",
        "side": f"the {SIDES[at]} picture shows a {colour} {shape} .",
        "more": f"there are more {colour} {PLURALS[shape]} in the {SIDES[at]} picture than in the {SIDES[1 - at]} .",
    }[kind]
