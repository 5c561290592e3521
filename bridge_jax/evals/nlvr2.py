"""Score judgements of statements about pictures (NLVR2, NLVR): accuracy overall and by kind, and consistency.

Two scores stand beside the accuracy: the same model with the pictures of another record, which shows how far the words
alone go; and the judgement that most statements of a kind have, given to all of the kind. The *consistency* is NLVR2's:
the share of sentences that were judged right for every record about which they were asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.evaluators import WritesResults
from bridge_jax.data import pipeline
from bridge_jax.data.questions import JUDGEMENTS
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.evals.scores import accuracy
from bridge_jax.losses.nlvr2 import judge
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table


class Evaluator(Asking, WritesResults):
    """Judge the statements of a split. Metrics: `<score>/accuracy` and `<score>/<kind>/accuracy`, in percent.

    Scores: `nlvr2`, the model; `shuffled`, the model with the pictures of every record taken from another one;
    `majority`, the judgement of most statements of each kind, counted on the split itself. `nlvr2/consistency` exists
    where sentences are shared. The bootstrap draws sets of statements; no statement of a set shares a record or a
    sentence with one outside it.
    """

    losses = ("nlvr2",)

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split has no statements, no judgements, or too few pictures a record."""
        pictures = cfg.losses["nlvr2"]["pictures"]
        splits = (cfg.data.eval_split, *evaluators.settings(cfg, "nlvr2").splits)
        for split in (cfg.data.train_split, *splits):
            records = pipeline.open_split(cfg.data, split)
            statements = records[0]["statements"]
            if not statements:
                raise ConfigError(
                    f"config.data.dataset: {cfg.data.dataset!r} has no statements, but the nlvr2 loss and the nlvr2 "
                    "evaluator read them; choose a data set with statements"
                )
            if records.pictures < pictures:
                raise ConfigError(
                    f"config.losses.nlvr2.pictures is {pictures}, but a record of {cfg.data.dataset!r} has "
                    f"{records.pictures}; set config.losses.nlvr2.pictures={records.pictures}"
                )
            if split in splits and not all(statement.answers for statement in statements):
                raise ConfigError(
                    f"config.evals.nlvr2: the statements of split {split!r} have no judgements to score with; choose a "
                    "split that has, and write the model's judgements with tools.evaluate --results"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, "nlvr2", texts="statements", pictures=cfg.losses["nlvr2"]["pictures"])

    def reply(self, params: Params, lower: Lower) -> list[bool]:
        """Return whether the model takes each statement for true. Raises FloatingPointError on NaN."""
        logits = np.asarray(self._predict.jit(judgements)(params, lower))
        if np.isnan(logits).any():
            raise FloatingPointError("nlvr2: a logit is NaN; an accuracy would be meaningless")
        return (logits > 0).tolist()

    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        pairs = zip(texts, answers, strict=True)
        return [float((JUDGEMENTS[judgement],) == one.question.answers) for one, judgement in pairs]

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        texts, worth, shuffled = self.with_and_without_picture(params, split, progress)
        scores = np.array([[judgement in one.question.answers for judgement in JUDGEMENTS] for one in texts], float)
        clusters = independent_sets(texts)
        metrics = {}
        for name, values in (
            ("nlvr2", worth),
            ("shuffled", shuffled),
            ("majority", asking.best_constant(texts, scores)),
        ):
            metrics |= self._metrics(name, texts, values, clusters)
        return metrics | self._consistency(texts, worth, clusters)

    def _consistency(self, texts: list[Asked], worth: Sequence[float], clusters: np.ndarray) -> dict[str, float]:
        """Return the share of sentences judged right every time, and their number; empty where none is shared."""
        right: dict[str, list[float]] = {}
        cluster_of: dict[str, int] = {}
        for one, value, cluster in zip(texts, worth, clusters, strict=True):
            if one.question.sentence:
                right.setdefault(one.question.sentence, []).append(value)
                cluster_of[one.question.sentence] = cluster
        if not any(len(values) > 1 for values in right.values()):
            return {}
        every = np.array([min(values) for values in right.values()])
        interval = accuracy.mean(
            every, np.array([*cluster_of.values()]), self._settings.bootstrap_samples, self._cfg.seed
        )
        renamed = {key.replace("accuracy", "consistency"): value for key, value in interval.items()}
        return {f"nlvr2/{key}": value for key, value in renamed.items()} | {"nlvr2/sentences": float(len(every))}

    def results(self, params: Params, split: str, progress: Progress) -> tuple[str, int]:
        """Return the judgements of all statements of `split`, as NLVR2's own metrics.py reads them, and their number.

        A line is identifier,True or identifier,False; a statement without an identifier goes by its number.
        """
        records = range(len(pipeline.open_split(self._cfg.data, split)))
        pairs = zip(*self.answer(params, split, records, progress), strict=True)
        lines = [f"{one.question.name or one.question.id},{judgement}\n" for one, judgement in pairs]
        return "".join(lines), len(lines)

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return accuracy in percent with 95 % intervals, overall and by kind, and the consistency below."""
        accuracies = asking.table("nlvr2", "statements", "majority", metrics)
        if "nlvr2/consistency" in metrics:
            value, low, high = (metrics[f"nlvr2/consistency{end}"] for end in ("", "_low", "_high"))
            sentences = f"{metrics['nlvr2/sentences']:.0f} sentences"
            accuracies.lines.append(
                f"consistency {value:.1f} [{low:.1f}, {high:.1f}]: judged right every time, of {sentences}"
            )
        return accuracies


def judgements(model: BridgeModel, lower: Lower) -> Array:
    """Return the logits [B] that the statements are true of their pictures. The texts are the statements."""
    pairs = forward.each_picture(lower)
    return judge(model, model.fused(pairs), pairs.text_mask)


def independent_sets(texts: list[Asked]) -> np.ndarray:
    """Return the set of each statement, int [n]; sharing a record or a sentence, also by a chain, makes one set.

    NLVR2 asks a sentence about four pairs and two sentences about a pair, so the statements about eight photos depend
    on each other.
    """
    first: dict[tuple[str, Any], int] = {}
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, one in enumerate(texts):
        for key in (("record", one.position), ("sentence", one.question.sentence or None)):
            if key[1] is not None:
                parent[root(i)] = root(first.setdefault(key, i))
    return np.array([root(i) for i in range(len(texts))])
