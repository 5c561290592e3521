"""Wrong captions of a record: captions known to be false of its picture, beside which the bridge learns to judge it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import ConfigError
from bridge_jax.data import text
from bridge_jax.data.records import readable


class DrawWrong:
    """Draw `count` wrong captions of a record, each at most once, and tokenise them."""

    def __init__(self, tokenizer: text.Tokenizer, count: int):
        self._tokenizer, self._count = tokenizer, count

    def __call__(self, captions: Sequence[str], generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `wrong_ids` int32 [w,T] and `wrong_mask` bool [w,T]; the rows beyond the record's own are all False.

        A caption that cannot be used (`text.fault`) is left out.
        """
        usable = [caption for caption in captions if not text.fault(caption)]
        chosen = generator.permutation(len(usable))[: self._count]
        drawn = [usable[index] for index in chosen]
        ids, mask = self._tokenizer.encode(drawn + [""] * (self._count - len(drawn)))
        return {"wrong_ids": ids, "wrong_mask": mask & (np.arange(self._count) < len(drawn))[:, None]}


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
