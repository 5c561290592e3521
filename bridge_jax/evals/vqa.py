"""Score visual question answering: the worth of the best answer to every question, overall and by kind of question.

With the loss `vqa`, the best answer has the greatest logit of the head; with `vqa_generative`, it is the answer that
the decoder finds likeliest.

Two scores stand beside it: the same model with the picture of another record, which shows how far the words alone go;
and, for each kind of question, the single answer that scores best when it is given to all.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.evaluators import WritesResults
from bridge_jax.data import pipeline, questions
from bridge_jax.data.answers import accuracy, scores
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.losses.vqa import score
from bridge_jax.models import search
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table


class Evaluator(Asking, WritesResults):
    """Answer the questions of a split. Metrics: `<score>/accuracy` and `<score>/<kind>/accuracy`, in percent.

    Scores: `vqa`, the model; `shuffled`, the model with every picture taken from another record; `constant`, the best
    single answer to each kind of question, chosen on the split itself.
    """

    losses = ("vqa", "vqa_generative")

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split cannot be scored: no such split, no questions, answers that do not fit."""
        if "vqa_generative" in cfg.losses:
            questions.load_answer_words(cfg)
        else:
            questions.load_answers(cfg)
        for split in (cfg.data.eval_split, *evaluators.settings(cfg, "vqa").splits):
            record = pipeline.open_split(cfg.data, split)[0]
            if not all(question.answers for question in record["questions"]):
                raise ConfigError(
                    f"config.evals.vqa: the questions of split {split!r} have no answers to score with; choose a split "
                    "that has, and write the model's answers with tools.evaluate --results"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, "vqa", texts="questions", pictures=1)
        self._answers = questions.load_answers(cfg)
        self._score = predict.jit(answer_logits)
        if "vqa_generative" in cfg.losses:
            pairs = zip(*questions.load_answer_words(cfg), strict=True)
            self._score = predict.jit(search.likelihoods, tuple(tuple(ids[mask].tolist()) for ids, mask in pairs))

    def reply(self, params: Params, lower: Lower) -> list[str]:
        """Return the best answer to each question. Raises FloatingPointError on NaN."""
        logits = np.asarray(self._score(params, lower))
        if np.isnan(logits).any():
            raise FloatingPointError("vqa: a logit is NaN; an accuracy would be meaningless")
        return [self._answers[output] for output in logits.argmax(axis=-1)]

    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        return [accuracy(answer, one.question.answers) for one, answer in zip(texts, answers, strict=True)]

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        texts, worth, shuffled = self.with_and_without_picture(params, split, progress)
        known = {answer: output for output, answer in enumerate(self._answers)}
        constant = asking.best_constant(texts, np.stack([scores(one.question.answers, known) for one in texts]))
        metrics = {}
        for name, values in {"vqa": worth, "shuffled": shuffled, "constant": constant}.items():
            metrics |= self._metrics(name, texts, values)
        return metrics

    def results(self, params: Params, split: str, progress: Progress) -> tuple[str, int]:
        """Return the answers to all questions of `split`, as the JSON of VQA's evaluation server, and their number."""
        records = range(len(pipeline.open_split(self._cfg.data, split)))
        pairs = zip(*self.answer(params, split, records, progress), strict=True)
        entries = [{"question_id": one.question.id, "answer": answer} for one, answer in pairs]
        return json.dumps(entries) + "\n", len(entries)

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return accuracy in percent with 95 % intervals, overall and by kind of question."""
        return asking.table("vqa", "questions", "constant", metrics)


def answer_logits(model: BridgeModel, lower: Lower) -> Array:
    """Return the logits [B,A] of the answers to the questions. The texts are the questions."""
    return score(model, model.fused(lower), lower.text_mask)
