"""The description of a checkpoint, stored as JSON beside its arrays and copied into exported folders."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from bridge_jax.config import Config, ConfigError, parse
from bridge_jax.config.migrations import migrate

STAGE = "stage_index"  # a key among the scores of a checkpoint, beside the one from its evaluator
FITTED = "fitted/"  # the keys of evaluators' settings that were fitted to it begin so: fitted/retrieval/rerank_weight


@dataclasses.dataclass(frozen=True)
class Meta:
    """The description of a checkpoint. `step` counts the steps done; `stage` is the one that did the last of them."""

    schema: int
    step: int
    stage: str
    config: Mapping[str, Any]
    fused_trained: bool = False  # whether this run, or the checkpoint it started from, trained the fused heads
    answers: tuple[str, ...] = ()  # possible answers to questions: the vqa head's outputs, or those a decoder ranks
    data: str = ""  # hash of the records that it was trained on (`records.training_fingerprint`); empty: unknown
    frozen: str = ""  # hash of the manifest of `frozen`; empty: every parameter is in the checkpoint itself


def read_meta(raw: Mapping[str, Any], where: str) -> Meta:
    """Return the Meta of a record that was stored as JSON, migrated to today's schema.

    Raises ConfigError, naming `where` and the reason, if this code cannot read it.
    """
    try:
        meta = Meta(**migrate(raw, where))
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; another version of the code wrote it") from error
    return dataclasses.replace(meta, answers=tuple(meta.answers))  # JSON has no tuples


def score_of(scores: Mapping[str, float]) -> float:
    """Return the score of a checkpoint from the evaluator of its stage; more is better."""
    (score,) = (value for name, value in scores.items() if name != STAGE and not name.startswith(FITTED))
    return score


def quality(scores: Mapping[str, float]) -> float:
    """Return a number that is larger for a better checkpoint, -inf for one without a score.

    A later stage is always better: rsum is at most 600, an accuracy 100.
    """
    return 1000.0 * scores[STAGE] + score_of(scores) if scores else -math.inf


def join_fitted(scores: Mapping[str, float], evaluator: str, fitted: Mapping[str, float]) -> dict[str, float]:
    """Return the scores with an evaluator's fitted settings, in place of those fitted before."""
    kept = {name: value for name, value in scores.items() if not name.startswith(f"{FITTED}{evaluator}/")}
    return kept | {f"{FITTED}{evaluator}/{name}": value for name, value in fitted.items()}


def with_fitted(cfg: Config, scores: Mapping[str, float]) -> Config:
    """Return the config with the settings that were fitted to a checkpoint."""
    evals = dict(cfg.evals)
    for name, value in scores.items():
        if name.startswith(FITTED):
            evaluator, setting = name.removeprefix(FITTED).split("/")
            evals[evaluator] = dataclasses.replace(evals[evaluator], **{setting: value})
    return dataclasses.replace(cfg, evals=evals)


def check_answers(meta: Meta, answers: Sequence[str], where: str) -> None:
    """Raise ConfigError, naming the first difference, if a checkpoint was trained on other answers."""
    pairs = list(itertools.zip_longest(meta.answers, answers))
    if meta.answers and answers and tuple(answers) != meta.answers:
        output = next(i for i, (mine, theirs) in enumerate(pairs) if mine != theirs)
        raise ConfigError(
            f"{where}: it was trained on other answers than the prepared data lists: answer {output} is "
            f"{pairs[output][0]!r} there and {pairs[output][1]!r} here; give the data that it was trained on"
        )


def read_config(meta: Meta, where: str) -> Config:
    """Return the config of a record. Raises ConfigError, naming `where`, if this code cannot read it."""
    try:
        return parse(ml_collections.ConfigDict(dict(meta.config)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; another version of the code wrote it") from error
