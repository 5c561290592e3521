"""What the evaluators of questions and of statements share: every text asked of its picture, or of another record's."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax import rng
from bridge_jax.config import Config, evaluators
from bridge_jax.data import pipeline, questions, text
from bridge_jax.data.padding import padded_batches
from bridge_jax.evals.scores import accuracy
from bridge_jax.step.predict import Predict
from bridge_jax.types import Lower, Params, Progress, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Accuracy of the answers to questions about pictures, or of the judgements of statements."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # what the table at the end covers; data.eval_split chooses the best checkpoint
    select_images: int  # records of data.eval_split whose texts are asked during training; 0: all
    bootstrap_samples: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question or statement of a split, and the position of its picture."""

    position: int
    question: questions.Question


class Asking(abc.ABC):
    """Ask the texts of a split. A subclass says which model gives what (`given`) and what that is worth (`worth`)."""

    def __init__(self, cfg: Config, predict: Predict, name: str, *, texts: str, pictures: int):
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, name)
        self._name, self._texts, self._pictures = name, texts, pictures
        self._tokenizer = text.load(cfg.data, cfg.text)

    @abc.abstractmethod
    def given(self, params: Params, lower: Lower) -> list[Any]:
        """Return what the model gives to each text. Raises FloatingPointError on NaN."""

    @abc.abstractmethod
    def worth(self, asked: list[Asked], given: Sequence[Any]) -> list[float]:
        """Return what that which was given to each text is worth, 0 to 1."""

    def watch(self, params: Params, progress: Progress) -> dict[str, float]:
        """Return the accuracy on the first `select_images` records of data.eval_split."""
        split = self._cfg.data.eval_split
        count = len(pipeline.open_split(self._cfg.data, split))
        order = range(min(count, self._settings.select_images or count))
        asked, given = self.answer(params, split, order, progress)
        return self._metrics(self._name, asked, self.worth(asked, given))

    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {f"{self._name}_accuracy": metrics[f"{self._name}/accuracy"]}

    def says(self, metrics: Mapping[str, float]) -> str:
        of_kinds = [f"{kind} {metrics[f'{self._name}/{kind}/accuracy']:.1f}" for kind in kinds(self._name, metrics)]
        more = f" ({', '.join(of_kinds)})" if len(of_kinds) > 1 else ""
        return f"{self._name} accuracy {metrics[f'{self._name}/accuracy']:.1f}{more}"

    def of_both(self, params: Params, split: str, progress: Progress) -> tuple[list[Asked], list[float], list[float]]:
        """Return the texts of a split, and what is given to them is worth: by their pictures, by another record's."""
        order = np.arange(len(pipeline.open_split(self._cfg.data, split)))
        asked, given = self.answer(params, split, order, progress)
        others = derangement(len(order), rng.stream_seed(self._cfg.seed, f"{self._name}/{split}"))
        blind = self.answer(params, split, order[others], progress, asked_of=order)[1]
        return asked, self.worth(asked, given), self.worth(asked, blind)

    def answer(
        self,
        params: Params,
        split: str,
        pictures: Sequence[int] | np.ndarray,
        progress: Progress,
        asked_of: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[list[Asked], list[Any]]:
        """Return the texts of the records `asked_of` (None: of the pictures' own) and what is given to each.

        They are asked about `pictures`, record for record. Raises FloatingPointError on NaN.
        """
        records, size = pipeline.open_split(self._cfg.data, split), self._settings.batch_size
        texts = [int(record) for record in (pictures if asked_of is None else asked_of)]
        order = [int(record) for record in pictures]
        asked, given, first = [], [], 0
        batches = pipeline.images(self._cfg, split, size, self._predict.rows, order, count=self._pictures)
        for images, _, valid in batches:
            states = np.asarray(self._predict.lower_image(params, images))
            here = [
                Asked(first + row, question)
                for row in range(int(valid.sum()))
                for question in records[texts[first + row]][self._texts]
            ]
            for chosen, _ in padded_batches(len(here), size):
                part = [here[row] for row in chosen]
                rows = [one.position - first for one in part]
                ids, mask = self._tokenizer.encode([one.question.text for one in part])
                said = np.asarray(self._predict.lower_text(params, ids, mask))
                given += self.given(params, Lower(image=states[rows], text=said, text_mask=mask))
            asked += here
            given = given[: len(asked)]  # the last part was filled up
            first += size
            progress("pictures", min(first, len(order)), len(order))
        return asked, given

    def _metrics(
        self, name: str, asked: list[Asked], worth: Sequence[float], clusters: np.ndarray | None = None
    ) -> dict[str, float]:
        """Return accuracy and count, over all and by kind. `clusters` are the records where None."""
        of_kinds = np.array([one.question.kind for one in asked])
        clusters = np.array([one.position for one in asked]) if clusters is None else clusters
        found = {}
        for kind in ("", *np.unique(of_kinds)):
            rows = (of_kinds == kind) if kind else np.full(len(asked), True)
            scored = accuracy.mean(
                np.asarray(worth)[rows], clusters[rows], self._settings.bootstrap_samples, self._cfg.seed
            )
            prefix = f"{name}/{kind}" if kind else name
            found |= {f"{prefix}/{key}": value for key, value in scored.items()}
            found[f"{prefix}/{self._texts}"] = float(rows.sum())
        return found


def derangement(count: int, seed: int) -> np.ndarray:
    """Return a random order [count] in which nothing keeps its place: a cycle through all."""
    order, shuffled = np.random.default_rng(seed).permutation(count), np.empty(count, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def best_of_kind(asked: list[Asked], scores: np.ndarray) -> list[float]:
    """Return what the best single output scores if it is always given to a text's kind; `scores` are [n, outputs]."""
    of_kinds, worth = np.array([one.question.kind for one in asked]), np.zeros(len(asked))
    for kind in np.unique(of_kinds):
        of_kind = scores[of_kinds == kind]
        worth[of_kinds == kind] = of_kind[:, of_kind.mean(axis=0).argmax()]
    return worth.tolist()


def table(name: str, texts: str, constant: str, metrics: Mapping[str, float]) -> Table:
    """Return accuracy in percent with 95 % intervals, overall and by kind, beside `shuffled` and one answer for all."""

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
    """Return the kinds that the metrics of a score are split by."""
    names = [key.split("/") for key in metrics if key.startswith(f"{name}/") and key.endswith("/accuracy")]
    return sorted("/".join(parts[1:-1]) for parts in names if len(parts) > 2)
