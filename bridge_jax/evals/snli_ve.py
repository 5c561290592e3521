"""Score visual entailment: the share of statements that get the right label.

Two scores stand beside the accuracy: the same model with the pictures of other records, which shows how far the words
alone go (SNLI-VE's give much away), and the most frequent label given to all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.evaluators import WritesResults
from bridge_jax.data import pipeline
from bridge_jax.data.datasets.snli_ve import LABELS
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.losses.snli_ve import judge
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table


class Evaluator(Asking, WritesResults):
    """Label the statements of a split. Metrics: `<score>/accuracy`, in percent.

    Scores: `snli_ve`, the model; `shuffled`, the model with every picture taken from another record; `majority`, the
    label that most statements of the split have.
    """

    losses = ("snli_ve",)

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split has no statements with one of LABELS."""
        for split in (cfg.data.train_split, cfg.data.eval_split, *evaluators.settings(cfg, "snli_ve").splits):
            statements = pipeline.open_split(cfg.data, split)[0]["statements"]
            if not statements or not all(one.answers and one.answers[0] in LABELS for one in statements):
                raise ConfigError(
                    f"config.data.dataset: {cfg.data.dataset!r} has no statements with the labels {', '.join(LABELS)}, "
                    "but the snli_ve loss and evaluator read them; choose a data set with them"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, "snli_ve", texts="statements", pictures=1)

    def reply(self, params: Params, lower: Lower) -> list[str]:
        """Return the label of each statement. Raises FloatingPointError on NaN."""
        logits = np.asarray(self._predict.jit(labels)(params, lower))
        if np.isnan(logits).any():
            raise FloatingPointError("snli_ve: a logit is NaN; an accuracy would be meaningless")
        return [LABELS[label] for label in logits.argmax(axis=-1)]

    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        return [float((label,) == one.question.answers) for one, label in zip(texts, answers, strict=True)]

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        texts, worth, shuffled = self.with_and_without_picture(params, split, progress)
        scores = np.array([[label in one.question.answers for label in LABELS] for one in texts], float)
        every = {"snli_ve": worth, "shuffled": shuffled, "majority": asking.best_constant(texts, scores)}
        metrics = {}
        for name, values in every.items():
            metrics |= self._metrics(name, texts, values)
        return metrics

    def results(self, params: Params, split: str, progress: Progress) -> tuple[str, int]:
        """Return the label of every statement of `split`, a line each (pairID,label), and the number of lines."""
        records = range(len(pipeline.open_split(self._cfg.data, split)))
        pairs = zip(*self.answer(params, split, records, progress), strict=True)
        lines = [f"{one.question.name},{label}\n" for one, label in pairs]
        return "".join(lines), len(lines)

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return accuracy in percent with 95 % intervals."""
        return asking.table("snli_ve", "statements", "majority", metrics)


def labels(model: BridgeModel, lower: Lower) -> Array:
    """Return the logits [B,X] of the labels of the statements. The texts are the statements."""
    return judge(model, model.fused(lower), lower.text_mask)
