"""Sort captions by what they say: a colour, a number, a size, a relation. A caption may be of several kinds."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

WORDS = {
    "colour": "red orange yellow green blue purple violet pink brown black white gray grey beige tan golden silver "
              "blonde blond colorful colourful dark bright",
    "number": "two three four five six seven eight nine ten eleven twelve several many both couple pair dozen group "
              "crowd 1 2 3 4 5 6 7 8 9 10",
    "size": "big bigger biggest large larger largest huge giant small smaller smallest little tiny tall taller short "
            "long wide narrow deep high low",
    "relation": "left right above below under underneath over behind beside between near next inside outside atop on "
                "onto in into against across through around toward towards beneath opposite",
}  # fmt: skip
_FORMS = {kind: re.compile(rf"\b(?:{'|'.join(words.split())})\b", re.IGNORECASE) for kind, words in WORDS.items()}


def of_caption(caption: str) -> list[str]:
    """Return the kinds of a caption, in the order of WORDS.

    >>> of_caption("Two black dogs on grass")
    ['colour', 'number', 'relation']
    """
    return [kind for kind, form in _FORMS.items() if form.search(caption)]


def table(captions: Sequence[str]) -> dict[str, Bool[np.ndarray, "n"]]:
    """Return kind -> which captions are of it, in the order of WORDS, and "none of these" last."""
    found = [of_caption(caption) for caption in captions]
    kinds = {kind: np.array([kind in each for each in found], bool) for kind in WORDS}
    return kinds | {"none of these": np.array([not each for each in found], bool)}
