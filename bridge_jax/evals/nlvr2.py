"""Statements about pictures (NLVR2, NLVR): how many are judged right, overall and by kind, and how consistently.

Beside the accuracy the same model with the pictures taken from another record, which shows how far the words alone go,
and what always saying what most statements of a kind are would score. The *consistency* is NLVR2's: the share of
sentences that were judged right of every record about which they were asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.data import pipeline
from bridge_jax.data.questions import JUDGEMENTS
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.evals.asking import Settings as Settings
from bridge_jax.evals.scores import accuracy
from bridge_jax.losses.nlvr2 import judge
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table

LOSSES = ("nlvr2",)


def check(cfg: Config) -> None:
    """Raise ConfigError where a split has no statements, no judgements, or another number of pictures a record."""
    pictures = cfg.losses["nlvr2"]["pictures"]
    splits = (cfg.data.eval_split, *evaluators.settings(cfg, "nlvr2").splits)
    for split in (cfg.data.train_split, *splits):
        records = pipeline.open_split(cfg.data, split)
        statements = records[0]["statements"]
        if not statements:
            raise ConfigError(
                f"config.data.dataset: {cfg.data.dataset!r} has no statements, which the nlvr2 loss and the nlvr2 "
                "evaluator read; choose a data set that has"
            )
        if records.pictures < pictures:
            raise ConfigError(
                f"config.losses.nlvr2.pictures is {pictures}, but a record of {cfg.data.dataset!r} has "
                f"{records.pictures}: set config.losses.nlvr2.pictures={records.pictures}"
            )
        if split in splits and not all(statement.answers for statement in statements):
            raise ConfigError(
                f"config.evals.nlvr2: nobody says which statements of split {split!r} are true; choose a split where "
                "it is known, and write what the model says with tools.evaluate --results"
            )


class Evaluator(Asking):
    """Judge the statements of a split. Metrics: `<score>/accuracy` and `<score>/<kind>/accuracy`, in percent.

    Scores: `nlvr2` the model; `shuffled` the model with the pictures of every record taken from another one; `majority`
    what most statements of each kind are, counted on the split itself. `nlvr2/consistency` where sentences are shared.
    Intervals are over sets of statements of which none shares a record or a sentence with one outside.
    """

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, "nlvr2", texts="statements", pictures=cfg.losses["nlvr2"]["pictures"])

    def given(self, params: Params, lower: Lower) -> list[bool]:
        """Return whether the model takes each statement for true."""
        logits = np.asarray(self._predict.of(judgements)(params, lower))
        if np.isnan(logits).any():
            raise FloatingPointError("nlvr2: a logit is NaN; an accuracy would be meaningless")
        return (logits > 0).tolist()

    def worth(self, asked: list[Asked], given: Sequence[Any]) -> list[float]:
        return [float((JUDGEMENTS[said],) == one.question.answers) for one, said in zip(asked, given, strict=True)]

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        asked, worth, shuffled = self.of_both(params, split, progress)
        scores = np.array([[said in one.question.answers for said in JUDGEMENTS] for one in asked], float)
        clusters = apart(asked)
        metrics = {}
        for name, of in (
            ("nlvr2", worth),
            ("shuffled", shuffled),
            ("majority", asking.best_of_kind(asked, scores)),
        ):
            metrics |= self._metrics(name, asked, of, clusters)
        return metrics | self._consistency(asked, worth, clusters)

    def _consistency(self, asked: list[Asked], worth: Sequence[float], clusters: np.ndarray) -> dict[str, float]:
        """Return the share of sentences judged right every time, and their number; nothing where none is shared."""
        right: dict[str, list[float]] = {}
        where: dict[str, int] = {}
        for one, value, cluster in zip(asked, worth, clusters, strict=True):
            if one.question.sentence:
                right.setdefault(one.question.sentence, []).append(value)
                where[one.question.sentence] = cluster
        if not any(len(values) > 1 for values in right.values()):
            return {}
        every = np.array([min(values) for values in right.values()])
        found = accuracy.mean(every, np.array([*where.values()]), self._settings.bootstrap_samples, self._cfg.seed)
        renamed = {key.replace("accuracy", "consistency"): value for key, value in found.items()}
        return {f"nlvr2/{key}": value for key, value in renamed.items()} | {"nlvr2/sentences": float(len(every))}

    def results(self, params: Params, split: str, progress: Progress) -> tuple[str, int]:
        """Return what the model says of every statement of `split`, as NLVR2's own metrics.py reads it, and how many.

        A line is identifier,True or identifier,False; a statement without an identifier has its number.
        """
        records = range(len(pipeline.open_split(self._cfg.data, split)))
        pairs = zip(*self.answer(params, split, records, progress), strict=True)
        lines = [f"{one.question.name or one.question.id},{said}\n" for one, said in pairs]
        return "".join(lines), len(lines)


def judgements(model: BridgeModel, lower: Lower) -> Array:
    """Return the logits [B] that the statements, which are the texts, are true of their pictures."""
    pairs = forward.each_picture(lower)
    return judge(model, model.fused(pairs), pairs.text_mask)


def apart(asked: list[Asked]) -> np.ndarray:
    """Return the set of every statement, int [n]: two are in one where they share a record or a sentence, or others do.

    NLVR2 asks a sentence of four pairs and two sentences of a pair, so one of eight photos' statements depend on each
    other.
    """
    first: dict[tuple[str, Any], int] = {}
    parent = list(range(len(asked)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, one in enumerate(asked):
        for key in (("record", one.position), ("sentence", one.question.sentence or None)):
            if key[1] is not None:
                parent[root(i)] = root(first.setdefault(key, i))
    return np.array([root(i) for i in range(len(asked))])


def table(metrics: Mapping[str, float]) -> Table:
    """Return accuracy in percent with 95 % intervals, overall and by kind, and the consistency below."""
    found = asking.table("nlvr2", "statements", "majority", metrics)
    if "nlvr2/consistency" in metrics:
        value, low, high = (metrics[f"nlvr2/consistency{end}"] for end in ("", "_low", "_high"))
        sentences = f"{metrics['nlvr2/sentences']:.0f} sentences"
        found.lines.append(f"consistency {value:.1f} [{low:.1f}, {high:.1f}]: every time right, of {sentences}")
    return found
