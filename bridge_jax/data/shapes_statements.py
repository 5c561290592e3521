"""Make statements about two pictures of shapes, true or false, from the scenes' own descriptions.

    both pictures show something red .              both
    neither picture shows something red .           neither
    exactly one picture shows something red .       one
    the left picture shows something red .          side

Two pictures have one colour in common, or none, each half of the time. A statement's colour is drawn so that half of
every kind is true, whatever its words. For "one", a single picture tells nothing either. For the others a single
picture must tell something ("both" is false where one picture lacks the colour), and it tells as little as possible:
with the words it decides three quarters of "both" and "neither", and all or none of "side", depending on the picture.

Statements name colours only. In version 1 of shapes, where objects stood anywhere, statements about a colour and a
shape at once, and about which picture has more, were not learned in five minutes on two cores.
"""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bridge_jax.data.questions import JUDGEMENTS, Question
from bridge_jax.data.shapes import COLOURS, Scene

SIDES = ("left", "right")
KINDS = ("both", "neither", "one", "side")
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
    """Return the pair of every record of a split; the first picture is the record's scene."""
    generator = np.random.default_rng(seed)
    rights = seconds(scenes, generator)
    return [Pair(*both, statements(*both, generator)) for both in zip(scenes, rights, strict=True)]


def as_questions(statements: Sequence[Statement], image_id: int) -> list[Question]:
    """Return statements in the form in which their record stores them."""
    first = image_id * len(KINDS)
    return [Question(first + i, one.text, one.kind, (JUDGEMENTS[one.is_true],)) for i, one in enumerate(statements)]


def colours(scene: Scene) -> set[str]:
    """Return the colours of a scene."""
    return {group.colour for group in scene.groups}


def seconds(scenes: Sequence[Scene], generator: np.random.Generator) -> list[Scene]:
    """Return the second picture of every record of a split: another of its scenes, so held-out scenes stay held out.

    Half of them have one colour in common with the first, half have none. Where a split is too small to hold such a
    scene, any scene is taken.
    """
    scenes_with = collections.defaultdict(list)
    for scene in scenes:
        for colour in sorted(colours(scene)):
            scenes_with[colour].append(scene)
    partners = []
    for scene in scenes:
        colour = scene.groups[int(generator.integers(2))].colour
        common = {colour} if generator.random() < 0.5 else set()

        def fits(other: Scene, scene: Scene = scene, common: set[str] = common) -> bool:
            return colours(scene) & colours(other) == common

        partners.append(_draw(scenes_with[colour] if common else scenes, fits, generator))
    return partners


def _draw(scenes: Sequence[Scene], fits: Callable[[Scene], bool], generator: np.random.Generator) -> Scene:
    """Return a random scene that fits; any scene where _TRIES draws meet none."""
    drawn = scenes[0]
    for _ in range(_TRIES):
        drawn = scenes[int(generator.integers(len(scenes)))]
        if fits(drawn):
            break
    return drawn


def statements(left: Scene, right: Scene, generator: np.random.Generator) -> tuple[Statement, ...]:
    """Return a statement of every kind about the two pictures."""
    present = (colours(left), colours(right))
    common = sorted(present[0] & present[1])
    only = [sorted(present[i] - present[1 - i]) for i in (0, 1)]
    absent = [colour for colour in COLOURS if colour not in present[0] | present[1]]

    def coin() -> int:
        return int(generator.integers(2))

    def some(*choices: Sequence[str]) -> str:
        """Return a random colour of the first choice that has any."""
        choice = next(colours for colours in (*choices, common, *only) if colours)
        return choice[int(generator.integers(len(choice)))]

    side, is_true = coin(), coin()
    drawn = {
        "both": some(common, only[coin()]),
        "neither": some(absent if coin() else only[coin()]),
        "one": some((common or absent) if coin() else only[coin()]),
        "side": some(common, only[side]) if is_true else some(absent if coin() else only[1 - side]),
    }
    made = []
    for kind in KINDS:
        colour = drawn[kind]
        shown = [colour in colours for colours in present]
        holds = {"both": all(shown), "neither": not any(shown), "one": sum(shown) == 1, "side": shown[side]}[kind]
        made.append(Statement(kind, statement_text(kind, colour, side), holds))
    return tuple(made)


def statement_text(kind: str, colour: str, side: int) -> str:
    """Return the words of a statement about a colour; `side` is the picture that it names, where it names one."""
    return {
        "both": f"both pictures show something {colour} .",
        "neither": f"neither picture shows something {colour} .",
        "one": f"exactly one picture shows something {colour} .",
        "side": f"the {SIDES[side]} picture shows something {colour} .",
    }[kind]
