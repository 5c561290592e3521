"""The base of the evaluators of questions and statements: ask every text about its own picture or another record's."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax import rng
from bridge_jax.config import Config, evaluators
from bridge_jax.config.evaluators import StageEvaluator
from bridge_jax.data import pipeline, questions, text
from bridge_jax.data.padding import padded_batches
from bridge_jax.evals.scores import accuracy
from bridge_jax.models import heads
from bridge_jax.step.predict import Predict
from bridge_jax.types import Lower, Params, Progress, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for the accuracy of answers to questions about pictures, or of judgements of statements."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # splits of the table at the end; data.eval_split chooses the best checkpoint
    select_images: int  # number of records of data.eval_split to ask about during training; 0: all
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question or statement of a split, and the position of its picture."""

    position: int
    question: questions.Question


class Asking(StageEvaluator):
    """Ask the texts of a split. A subclass lets the model answer (`reply`) and scores the answers (`worth`)."""

    Settings = Settings

    def __init__(self, cfg: Config, predict: Predict, name: str, *, texts: str, pictures: int):
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, name)
        self._name, self._texts, self._pictures = name, texts, pictures
        self._tokenizer = text.load(cfg.data, cfg.text)

    @abc.abstractmethod
    def reply(self, params: Params, lower: Lower) -> list[Any]:
        """Return the model's answer to each text. Raises FloatingPointError on NaN."""

    @abc.abstractmethod
    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        """Score each answer from 0 to 1."""

    def watch(self, params: Params, progress: Progress) -> dict[str, float]:
        """Return the accuracy on the first `select_images` records of data.eval_split."""
        split = self._cfg.data.eval_split
        count = len(pipeline.open_split(self._cfg.data, split))
        order = range(min(count, self._settings.select_images or count))
        texts, answers = self.answer(params, split, order, progress)
        return self._metrics(self._name, texts, self.worth(texts, answers))

    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {f"{self._name}_accuracy": metrics[f"{self._name}/accuracy"]}

    def summary(self, metrics: Mapping[str, float]) -> str:
        by_kind = [f"{kind} {metrics[f'{self._name}/{kind}/accuracy']:.1f}" for kind in kinds(self._name, metrics)]
        more = f" ({', '.join(by_kind)})" if len(by_kind) > 1 else ""
        return f"{self._name} accuracy {metrics[f'{self._name}/accuracy']:.1f}{more}"

    def with_and_without_picture(
        self, params: Params, split: str, progress: Progress
    ) -> tuple[list[Asked], list[float], list[float]]:
        """Return the texts of a split with the worth of each answer: with the right picture, then with another's."""
        texts, answers, blind = self.answers_with_and_without_picture(params, split, progress)
        return texts, self.worth(texts, answers), self.worth(texts, blind)

    def answers_with_and_without_picture(
        self, params: Params, split: str, progress: Progress
    ) -> tuple[list[Asked], list[Any], list[Any]]:
        """Return the texts of a split with the answer to each: with the right picture, then with another record's."""
        order = np.arange(len(pipeline.open_split(self._cfg.data, split)))
        texts, answers = self.answer(params, split, order, progress)
        others = derangement(len(order), rng.stream_seed(self._cfg.seed, f"{self._name}/{split}"))
        blind = self.answer(params, split, order[others], progress, records=order)[1]
        return texts, answers, blind

    def answer(
        self,
        params: Params,
        split: str,
        pictures: Sequence[int] | np.ndarray,
        progress: Progress,
        records: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[list[Asked], list[Any]]:
        """Return the texts of `records` (None: those of the pictures) and the model's answer to each.

        The texts of a record are asked about the picture at its position in `pictures`. Raises FloatingPointError on
        NaN.
        """
        members, size = pipeline.open_split(self._cfg.data, split), self._settings.batch_size
        sources = [int(record) for record in (pictures if records is None else records)]
        order = [int(record) for record in pictures]
        texts, answers, first = [], [], 0
        batches = pipeline.images(self._cfg, split, size, self._predict.rows, order, count=self._pictures)
        for images, _, valid in batches:
            states = np.asarray(self._predict.lower_image(params, images))
            here = [
                Asked(first + row, question)
                for row in range(int(valid.sum()))
                for question in members[sources[first + row]][self._texts]
            ]
            for chosen, _ in padded_batches(len(here), size):
                part = [here[row] for row in chosen]
                rows = [one.position - first for one in part]
                ids, mask = self._tokenizer.encode([one.question.text for one in part])
                text_states = np.asarray(self._predict.lower_text(params, ids, mask))
                answers += self.reply(params, Lower(image=states[rows], text=text_states, text_mask=mask))
            texts += here
            answers = answers[: len(texts)]  # the last part was padded
            first += size
            progress("pictures", min(first, len(order)), len(order))
        return texts, answers

    def _metrics(
        self, name: str, texts: list[Asked], worth: Sequence[float], clusters: np.ndarray | None = None
    ) -> dict[str, float]:
        """Return accuracy and count, over all and by kind. `clusters` [n]: None for one cluster a record."""
        text_kinds = np.array([one.question.kind for one in texts])
        clusters = np.array([one.position for one in texts]) if clusters is None else clusters
        metrics = {}
        for kind in ("", *np.unique(text_kinds)):
            rows = (text_kinds == kind) if kind else np.full(len(texts), True)
            scored = accuracy.mean(
                np.asarray(worth)[rows], clusters[rows], self._settings.bootstrap_samples, self._cfg.seed
            )
            prefix = f"{name}/{kind}" if kind else name
            metrics |= {f"{prefix}/{key}": value for key, value in scored.items()}
            metrics[f"{prefix}/{self._texts}"] = float(rows.sum())
        return metrics


def joined(cfg: Config, params: Params, match: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Return the scores of reranking: match logit + weight x logit scale x cosine; without retrieval's weight, 1."""
    weight = cfg.evals["retrieval"].rerank_weight if "retrieval" in cfg.evals else 1.0
    return match + weight * heads.double_scale(params["heads"]["log_scale"], cfg.bridge) * cosines


def derangement(count: int, seed: int) -> np.ndarray:
    """Return a random order [count] in which nothing keeps its place: one cycle through all."""
    order, shuffled = np.random.default_rng(seed).permutation(count), np.empty(count, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def best_constant(texts: list[Asked], scores: np.ndarray) -> list[float]:
    """Return the score of each text where every kind always gets its best single output; `scores` are [n, outputs]."""
    text_kinds, worth = np.array([one.question.kind for one in texts]), np.zeros(len(texts))
    for kind in np.unique(text_kinds):
        kind_scores = scores[text_kinds == kind]
        worth[text_kinds == kind] = kind_scores[:, kind_scores.mean(axis=0).argmax()]
    return worth.tolist()


def table(name: str, texts: str, constant: str, metrics: Mapping[str, float]) -> Table:
    """Return accuracy in percent with 95 % intervals, overall and by kind, beside `shuffled` and a constant answer."""

    def row(label: str, kind: str) -> tuple[str, ...]:
        cells = []
        for score in (name, "shuffled", constant):
            value, low, high = (metrics[f"{score}/{kind}accuracy{end}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]" if score != constant else f"{value:.1f}")
        return label, f"{metrics[f'{name}/{kind}{texts}']:.0f}", *cells

    columns = (texts, "asked", "accuracy [95 %]", "picture shuffled [95 %]", "one answer")
    rows = [row("all", ""), *(row(f"  {kind}", f"{kind}/") for kind in kinds(name, metrics))]
    return Table(columns, labels=1, rows=rows)


def kinds(name: str, metrics: Mapping[str, float]) -> list[str]:
    """Return the kinds of text that have metrics of their own under the score `name`."""
    names = [key.split("/") for key in metrics if key.startswith(f"{name}/") and key.endswith("/accuracy")]
    return sorted("/".join(parts[1:-1]) for parts in names if len(parts) > 2)
