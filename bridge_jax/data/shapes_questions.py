"""Ask questions about a scene of shapes, from its own description: colour, shape, size, count and relation.

A question names a group by an attribute that the other group lacks, so it has one answer; all ten people give it. Each
relation is asked in both orders, so half of the answers are yes and the words alone tell nothing.

    two small red circles left of one large blue square    yes
    one large blue square left of two small red circles    no

A question about a relation has the words of a caption, and no more. A model that learned in minutes which captions are
true depends on the places of their words: it matched all captions, 86 % of them with a question mark added, and 64 %
turned into "are two small ... ?".
"""

from collections.abc import Iterator

from bridge_jax.data.questions import Question
from bridge_jax.data.shapes import COLOURS, COUNTS, PLURALS, RELATIONS, SIZES_PX, Group, Scene

ANSWERS = (*COLOURS, *PLURALS, *SIZES_PX, *map(str, COUNTS), "yes", "no")
PEOPLE = 10
PER_SCENE = 10  # at most; fewer where the groups share a colour or a shape


def questions(scene: Scene, image_id: int) -> list[Question]:
    """Return every question about the scene, relations last."""
    first, second = scene.groups
    parts = [part for pair in ((first, second), (second, first)) for part in _about(*pair)]
    relation = RELATIONS[scene.axis][0]
    for a, b, answer in ((first, second, "yes"), (second, first, "no")):
        parts.append(("relation", f"{a.phrase()} {relation} {b.phrase()}", answer))
    ids = range(image_id * PER_SCENE, (image_id + 1) * PER_SCENE)
    return [
        Question(id_, text, kind, (answer,) * PEOPLE) for id_, (kind, text, answer) in zip(ids, parts, strict=False)
    ]


def _about(group: Group, other: Group) -> Iterator[tuple[str, str, str]]:
    """Yield kind, text and answer of the questions about one group, worded so that they cannot mean the other."""
    noun = group.shape if group.count == 1 else PLURALS[group.shape]
    verb, one = _verb(group), "one" if group.count == 1 else "ones"
    if group.shape != other.shape:
        yield "colour", f"what colour {verb} the {noun} ?", group.colour
    if group.colour != other.colour:
        yield "shape", f"what shape {verb} the {group.colour} {one} ?", group.shape
    yield "size", f"what size {verb} the {group.colour} {noun} ?", group.size
    yield "count", f"how many {group.colour} {PLURALS[group.shape]} are there ?", str(group.count)


def _verb(group: Group) -> str:
    return "is" if group.count == 1 else "are"
