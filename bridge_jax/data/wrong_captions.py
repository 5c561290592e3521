"""Wrong captions of a record: captions known to be false of its picture, beside which the bridge learns to judge it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bridge_jax.config import ConfigError, Stage, objectives
from bridge_jax.data import text
from bridge_jax.data.records import readable


class Wrong(NamedTuple):
    """A caption that is false of its picture, and the kind of caption that it is; "" where nobody knows."""

    kind: str
    text: str


def of_record(record: Mapping[str, Any]) -> list[Wrong]:
    """Return the wrong captions of a record."""
    texts = record["wrong_captions"]
    return list(map(Wrong, record.get("wrong_caption_kinds") or [""] * len(texts), texts))


class DrawWrong:
    """Draw `count` wrong captions of a record, each at most once, and tokenise them.

    They are of the kind of the row's own caption, where the record knows their kinds. Words of another kind would give
    them away.
    """

    def __init__(self, tokenizer: text.Tokenizer, count: int):
        self._tokenizer, self._count = tokenizer, count

    def __call__(self, wrong: Sequence[Wrong], kind: str, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `wrong_ids` int32 [w,T] and `wrong_mask` bool [w,T]; the rows beyond the record's own are all False.

        `wrong`: those of the record; `kind`: that of the caption which the row reads. A caption that cannot be used
        (`text.fault`) is left out.
        """
        usable = [each.text for each in wrong if each.kind in ("", kind) and not text.fault(each.text)]
        chosen = generator.permutation(len(usable))[: self._count]
        drawn = [usable[index] for index in chosen]
        ids, mask = self._tokenizer.encode(drawn + [""] * (self._count - len(drawn)))
        return {"wrong_ids": ids, "wrong_mask": mask & (np.arange(self._count) < len(drawn))[:, None]}


def draw_of(
    records: Sequence[Mapping[str, Any]], dataset: str, tokenizer: text.Tokenizer, stage: Stage
) -> DrawWrong | None:
    """Return the function that draws the wrong captions of a row of `stage`, None for none.

    Raises ConfigError where the first 64 records that can be read have none to draw from.
    """
    count = objectives.wrong_captions(stage)
    if not count:
        return None
    first = itertools.islice(readable(records), 64)
    if not any(record["wrong_captions"] for record in first if record):
        raise ConfigError(
            f"config.stages.{stage.name}.wrong_captions is {count}, but the records of {dataset!r} have no wrong "
            "captions: set it to 0"
        )
    return DrawWrong(tokenizer, count)
