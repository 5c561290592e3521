"""Wrong captions of a record: captions known to be false of its picture, beside which the bridge learns to judge it."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import ConfigError
from bridge_jax.data import text
from bridge_jax.data.records import readable


class DrawWrong:
    """Draw `count` wrong captions of a record, each at most once, and tokenise them.

    Those whose words differ least from the row's own caption come first: the same words in another order are what a
    model that reads a caption as a bag of words cannot tell.
    """

    def __init__(self, tokenizer: text.Tokenizer, count: int):
        self._tokenizer, self._count = tokenizer, count

    def __call__(self, captions: Sequence[str], own: str, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `wrong_ids` int32 [w,T] and `wrong_mask` bool [w,T]; the rows beyond the record's own are all False.

        `captions`: the record's wrong ones; `own`: the true one that the row reads. A caption that cannot be used
        (`text.fault`) is left out.
        """
        usable = [caption for caption in captions if not text.fault(caption)]
        shuffled = [usable[index] for index in generator.permutation(len(usable))]
        drawn = sorted(shuffled, key=lambda caption: _differing_words(caption, own))[: self._count]
        ids, mask = self._tokenizer.encode(drawn + [""] * (self._count - len(drawn)))
        return {"wrong_ids": ids, "wrong_mask": mask & (np.arange(self._count) < len(drawn))[:, None]}


def _differing_words(one: str, other: str) -> int:
    """Return how many words, in lower case and each as often as it occurs, only one of two captions has."""
    words, others = (Counter(caption.lower().split()) for caption in (one, other))
    return ((words - others) + (others - words)).total()


def draw_of(
    records: Sequence[Mapping[str, Any]], dataset: str, tokenizer: text.Tokenizer, count: int
) -> DrawWrong | None:
    """Return the function that draws `count` wrong captions, None for none.

    Raises ConfigError where the first 64 records that can be read have none to draw from.
    """
    if not count:
        return None
    first = itertools.islice(readable(records), 64)
    if not any(record["wrong_captions"] for record in first if record):
        raise ConfigError(
            f"config.mining.wrong_captions is {count}, but the records of {dataset!r} have no wrong captions: "
            "set it to 0"
        )
    return DrawWrong(tokenizer, count)
