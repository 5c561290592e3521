"""Visual question answering: what the best answer of every question is worth, overall and by kind of question.

Beside it the same model with the picture taken from another record, which shows how far the words alone go, and what
the one answer that scores best would score if it were always given, kind by kind.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax import rng
from bridge_jax import step as steps
from bridge_jax.config import Config, ConfigError, evaluator
from bridge_jax.data import answers, pipeline, questions, text
from bridge_jax.evals.scores import accuracy
from bridge_jax.types import Lower, Params, Table

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question of a split, and the position of its picture."""

    position: int
    question: questions.Question


def check(cfg: Config) -> None:
    """Raise ConfigError where a split cannot be scored: no such split, no questions, another number of answers."""
    questions.load_answers(cfg)
    for split in (cfg.data.eval_split, *evaluator(cfg, "vqa").splits):
        record = pipeline.open_split(cfg.data, split)[0]
        if not all(question.answers for question in record["questions"]):
            raise ConfigError(
                f"config.evals.vqa: the questions of split {split!r} have no answers to score with; choose a split "
                "that has, and write what the model answers with tools.evaluate --results"
            )


class Evaluator:
    """Answer the questions of a split. Metrics: `<score>/accuracy` and `<score>/<kind>/accuracy`, in percent.

    Scores: `vqa` the model; `shuffled` the model with every picture taken from another record; `constant` the best
    single answer to each kind of question, chosen on the split itself.
    """

    def __init__(self, cfg: Config, predict: steps.Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        self._cfg, self._predict, self._settings = cfg, predict, evaluator(cfg, "vqa")
        self._answers = questions.load_answers(cfg)
        self._tokenizer = text.load(cfg.data, cfg.text)

    def watch(self, params: Params, progress: Progress) -> dict[str, float]:
        """Return the accuracy on the first `select_images` pictures of data.eval_split."""
        split = self._cfg.data.eval_split
        count = len(pipeline.open_split(self._cfg.data, split))
        order = range(min(count, self._settings.select_images or count))
        asked, given = self.answer(params, split, order, progress)
        return self._metrics("vqa", asked, [accuracy_of(a, g) for a, g in zip(asked, given, strict=True)])

    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {"vqa_accuracy": metrics["vqa/accuracy"]}

    def says(self, metrics: Mapping[str, float]) -> str:
        kinds = [f"{kind} {metrics[f'vqa/{kind}/accuracy']:.1f}" for kind in _kinds(metrics)]
        return f"vqa accuracy {metrics['vqa/accuracy']:.1f} ({', '.join(kinds)})"

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        order = np.arange(len(pipeline.open_split(self._cfg.data, split)))
        asked, given = self.answer(params, split, order, progress)
        metrics = self._metrics("vqa", asked, [accuracy_of(a, g) for a, g in zip(asked, given, strict=True)])
        others = derangement(len(order), rng.stream_seed(self._cfg.seed, f"vqa/{split}"))
        blind = self.answer(params, split, order[others], progress, asked_of=order)[1]
        metrics |= self._metrics("shuffled", asked, [accuracy_of(a, g) for a, g in zip(asked, blind, strict=True)])
        return metrics | self._metrics("constant", asked, _constant(asked, self._answers))

    def results(self, params: Params, split: str, progress: Progress) -> list[dict[str, Any]]:
        """Return the answer to every question, as VQA's evaluation server takes it."""
        order = range(len(pipeline.open_split(self._cfg.data, split)))
        asked, given = self.answer(params, split, order, progress)
        return [{"question_id": one.question.id, "answer": said} for one, said in zip(asked, given, strict=True)]

    def answer(
        self,
        params: Params,
        split: str,
        pictures: Sequence[int] | np.ndarray,
        progress: Progress,
        asked_of: Sequence[int] | np.ndarray | None = None,
    ) -> tuple[list[Asked], list[str]]:
        """Return the questions of the records `asked_of` (None: of the pictures' own) and the best answer to each.

        They are asked about `pictures`, record for record. Raises FloatingPointError on NaN.
        """
        records, size = pipeline.open_split(self._cfg.data, split), self._settings.batch_size
        texts = [int(record) for record in (pictures if asked_of is None else asked_of)]
        order = [int(record) for record in pictures]
        asked, given, first = [], [], 0
        for images, _, valid in pipeline.images(self._cfg, split, size, self._predict.rows, order):
            states = np.asarray(self._predict.lower_image(params, images))
            here = [
                Asked(first + row, question)
                for row in range(int(valid.sum()))
                for question in records[texts[first + row]]["questions"]
            ]
            for part in _parts(here, size):
                rows = [one.position - first for one in part]
                given += self._best(params, states[rows], [one.question.text for one in part])
            asked += here
            given = given[: len(asked)]  # the last part was filled up
            first += size
            progress("pictures", min(first, len(order)), len(order))
        return asked, given

    def _best(self, params: Params, image: np.ndarray, said: list[str]) -> list[str]:
        ids, mask = self._tokenizer.encode(said)
        lower = Lower(image=image, text=np.asarray(self._predict.lower_text(params, ids, mask)), text_mask=mask)
        logits = np.asarray(self._predict.answers(params, lower))
        if np.isnan(logits).any():
            raise FloatingPointError("vqa: a logit is NaN; an accuracy would be meaningless")
        return [self._answers[output] for output in logits.argmax(axis=-1)]

    def _metrics(self, name: str, asked: list[Asked], worth: Sequence[float]) -> dict[str, float]:
        kinds, clusters = np.array([one.question.kind for one in asked]), np.array([one.position for one in asked])
        found = {}
        for kind in ("", *np.unique(kinds)):
            rows = (kinds == kind) if kind else np.full(len(asked), True)
            scored = accuracy.mean(
                np.asarray(worth)[rows], clusters[rows], self._settings.bootstrap_samples, self._cfg.seed
            )
            prefix = f"{name}/{kind}" if kind else name
            found |= {f"{prefix}/{key}": value for key, value in scored.items()}
            found[f"{prefix}/questions"] = float(rows.sum())
        return found


def accuracy_of(asked: Asked, given: str) -> float:
    return answers.accuracy(given, asked.question.answers)


def derangement(count: int, seed: int) -> np.ndarray:
    """Return a random order [count] in which nothing keeps its place: a cycle through all."""
    order, shuffled = np.random.default_rng(seed).permutation(count), np.empty(count, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def table(metrics: Mapping[str, float]) -> Table:
    """Return accuracy in percent with 95 % intervals, overall and by kind of question."""

    def row(label: str, kind: str) -> tuple[str, ...]:
        cells = []
        for score in ("vqa", "shuffled", "constant"):
            value, low, high = (metrics[f"{score}/{kind}accuracy{end}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]" if score != "constant" else f"{value:.1f}")
        return label, f"{metrics[f'vqa/{kind}questions']:.0f}", *cells

    columns = ("questions", "asked", "accuracy [95 %]", "picture shuffled [95 %]", "constant answer")
    rows = [row("all", ""), *(row(f"  {kind}", f"{kind}/") for kind in _kinds(metrics))]
    return Table(columns, labels=1, rows=rows)


def _kinds(metrics: Mapping[str, float]) -> list[str]:
    names = [name.split("/") for name in metrics if name.startswith("vqa/") and name.endswith("/accuracy")]
    return sorted("/".join(parts[1:-1]) for parts in names if len(parts) > 2)


def _constant(asked: list[Asked], outputs: Sequence[str]) -> list[float]:
    """Return what each question's kind's best single answer scores on it."""
    known = {answer: output for output, answer in enumerate(outputs)}
    scores = np.stack([answers.scores(one.question.answers, known) for one in asked])
    kinds = np.array([one.question.kind for one in asked])
    worth = np.zeros(len(asked))
    for kind in np.unique(kinds):
        of_kind = scores[kinds == kind]
        worth[kinds == kind] = of_kind[:, of_kind.mean(axis=0).argmax()]
    return worth.tolist()


def _parts(asked: list[Asked], size: int) -> Iterator[list[Asked]]:
    """Yield the questions, `size` at a time; the last part repeats its last one to be as large."""
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        yield part + part[-1:] * (size - len(part))
