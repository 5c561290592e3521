"""What a checkpoint says of itself, as JSON beside its arrays; it travels on in exported folders."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bridge_jax.config import Config, ConfigError, parse
from bridge_jax.config.migrations import migrate

STAGE = "stage_index"  # stands among the scores of a checkpoint, beside the one that its evaluator gave


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself. `step` counts the steps done; `stage` is the one that did the last of them."""

    schema: int
    step: int
    stage: str
    config: Mapping[str, Any]
    fused_trained: bool = False  # whether the fused heads were ever trained, here or in what the run started from
    answers: tuple[str, ...] = ()  # what questions are answered with: the vqa head's outputs, or what a decoder ranks
    frozen: str = ""  # hash of the manifest of `frozen`; empty: every parameter is in the checkpoint itself


def read_meta(raw: Mapping[str, Any], where: str) -> Meta:
    """Return a record that was stored as JSON, brought up to today's schema.

    Raises ConfigError, naming `where` and the reason, for one that this code cannot read.
    """
    try:
        meta = Meta(**migrate(raw, where))
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error
    return dataclasses.replace(meta, answers=tuple(meta.answers))  # JSON has no tuples


def score_of(scores: Mapping[str, float]) -> float:
    """Return what the evaluator of its stage has given a checkpoint; more is better."""
    (score,) = (value for name, value in scores.items() if name != STAGE)
    return score


def check_answers(meta: Meta, answers: Sequence[str], where: str) -> None:
    """Raise ConfigError, naming the first that differs, where a checkpoint was trained on other answers."""
    pairs = list(itertools.zip_longest(meta.answers, answers))
    if meta.answers and answers and tuple(answers) != meta.answers:
        output = next(i for i, (mine, theirs) in enumerate(pairs) if mine != theirs)
        raise ConfigError(
            f"{where}: it was trained on other answers than the prepared data lists: answer {output} is "
            f"{pairs[output][0]!r} there and {pairs[output][1]!r} here; give the data that it was trained on"
        )


def read_config(meta: Meta, where: str) -> Config:
    """Return the config of a record. Raises ConfigError, naming `where`, where this code cannot read it."""
    try:
        return parse(ml_collections.ConfigDict(dict(meta.config)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error
