"""Say which items of a compositionality benchmark are right, as the benchmarks count them, in plain NumPy.

A statement is a caption with a photo. An item is right about a photo where each caption that is true of it scores above
each that is false. A tie is wrong.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

MEASURES = ("", "pair", "set", "text", "image", "group")  # "" counts items of one photo


class Statement(NamedTuple):
    """A caption with a photo: the name of its item, its photo, the caption, and whether it is true."""

    item: str
    photo: int
    caption: str
    true: bool


class Right(NamedTuple):
    """The units that a measure counts: the first statement of each, and whether it is right by each score."""

    first: list[int]
    right: Float[np.ndarray, "n S"]


def measure(said: Sequence[Statement], scores: Float[np.ndarray, "texts S"]) -> dict[str, Right]:
    """Return measure -> what it counts, of statements and S scores of each.

    Items of one photo: "" counts them; where their names say so, "pair" and "set" count the pairs and sets that are
    right in all their items (What'sUp). Items of two photos (Winoground, BiVLC): "text" counts those that are right
    about both, "image" those whose captions all score higher with their own photo, "group" those that are both. An item
    of which a photo is missing is left out.
    """
    items = _grouped((one.item for one in said), range(len(said)))
    photos = {name: _grouped((said[row].photo for row in rows), rows) for name, rows in items.items()}
    most = max(map(len, photos.values()), default=0)
    whole = {name: list(parts.values()) for name, parts in photos.items() if len(parts) == most}
    true, about = np.array([one.true for one in said]), right(said, scores)
    won = {name: about[[rows[0] for rows in parts]] for name, parts in whole.items()}
    first = {name: parts[0][0] for name, parts in whole.items()}
    if most > 1:
        sentences = {name: _grouped((said[row].caption for row in items[name]), items[name]) for name in whole}
        text = _all(won)
        image = _all(
            {name: [_above(rows, true, scores) for rows in parts.values()] for name, parts in sentences.items()}
        )
        group = _all({name: (text[name], image[name]) for name in whole})
        return {name: _right(first, found) for name, found in (("text", text), ("image", image), ("group", group))}
    alone = {name: found[0] for name, found in won.items()}
    found = {"": _right(first, alone)}
    if alone and all(name.count("/") == 3 for name in alone):
        for kind, parts in (("pair", 3), ("set", 2)):
            units = _grouped(("/".join(name.split("/")[:parts]) for name in alone), alone)
            together = {unit: [alone[name] for name in names] for unit, names in units.items()}
            found[kind] = _right({unit: first[names[0]] for unit, names in units.items()}, _all(together))
    return found


def right(said: Sequence[Statement], scores: Float[np.ndarray, "texts S"]) -> Bool[np.ndarray, "texts S"]:
    """Return of each statement whether its item is right about its photo, by each score."""
    found = np.zeros(scores.shape, bool)
    true = np.array([one.true for one in said])
    for rows in _grouped(((one.item, one.photo) for one in said), range(len(said))).values():
        found[rows] = _above(rows, true, scores)
    return found


def _above(rows: Sequence[int], true: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return whether all true ones of these statements score above all false ones, bool [S]."""
    yes, no = [row for row in rows if true[row]], [row for row in rows if not true[row]]
    return scores[yes].min(axis=0) > scores[no].max(axis=0)


def _all(won: Mapping[str, Sequence[np.ndarray] | np.ndarray]) -> dict[str, np.ndarray]:
    """Return name -> where all of its are true, bool [S]."""
    return {name: np.logical_and.reduce(parts) for name, parts in won.items()}


def _grouped(keys: Iterable[Hashable], values: Iterable) -> dict:
    """Return key -> its values, in the order of first appearance."""
    found: dict = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, []).append(value)
    return found


def _right(first: Mapping[str, int], won: Mapping[str, np.ndarray]) -> Right:
    return Right([first[name] for name in won], np.array(list(won.values()), float))
