"""Questions about a picture, what ten people answered, and the answers that a model chooses from.

The answers are a closed list, made when a data set is prepared and stored beside its records, one a line: the line
number is the output of the vqa head. What an answer is worth is VQA's rule (Antol et al. 2015): an answer that three of
the others gave is right, averaged over the ten ways to leave one of them out.

>>> [round(float(accuracy("red", ["red"] * n + ["blue"] * (10 - n))), 2) for n in (0, 1, 2, 3, 4, 10)]
[0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from bridge_jax import config
from bridge_jax.data import datasets

ANSWERS = "answers.txt"  # stored beside the records by a data set with questions


class Question(NamedTuple):
    """A question as it travels with its record, as JSON. `answers` is empty where nobody may see them (a test set)."""

    id: int  # unique within the data set
    text: str
    kind: str  # by which the score is split: the answer type of VQA v2, what is asked about in shapes
    answers: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Question":
        fields = json.loads(text)
        return cls(fields["id"], fields["text"], fields["kind"], tuple(fields["answers"]))


def accuracy(given: str, answers: Sequence[str]) -> float:
    """Return what an answer is worth, 0 to 1: min(n/3, 1) of the n others that agree, over all ways to leave one out.

    Raises ValueError where there are no answers to compare with.
    """
    if not answers:
        raise ValueError("accuracy: expected the answers that people gave, got none")
    same = sum(answer == given for answer in answers)
    return (same * min((same - 1) / 3, 1) + (len(answers) - same) * min(same / 3, 1)) / len(answers)


def scores(answers: Sequence[str], known: dict[str, int]) -> Float32[np.ndarray, "A"]:
    """Return what each of the known answers is worth: the target of the vqa loss."""
    found = np.zeros(len(known), np.float32)
    for answer in set(answers) & known.keys():
        found[known[answer]] = accuracy(answer, answers)
    return found


def save_answers(answers: Sequence[str], folder: Path) -> None:
    """Write the answers that a model chooses from, in the order of its outputs."""
    (folder / ANSWERS).write_text("".join(f"{answer}\n" for answer in answers), encoding="utf-8")


def load_answers(cfg: config.Config) -> tuple[str, ...]:
    """Return the answers prepared with the data set of the config.

    Raises ConfigError where it has none, and where they are not as many as the head has outputs.
    """
    path = datasets.prepared_folder(cfg.data) / ANSWERS
    if not path.is_file():
        raise config.ConfigError(
            f"config.data.dataset: {cfg.data.dataset!r} has no questions ({path} is not there), which the vqa loss "
            "and the vqa evaluator read; choose a data set that has"
        )
    answers = tuple(path.read_text(encoding="utf-8").splitlines())
    outputs = cfg.losses["vqa"]["answers"]
    if len(answers) != outputs:
        raise config.ConfigError(
            f"config.losses.vqa.answers is {outputs}, but {path} lists {len(answers)}: "
            f"set config.losses.vqa.answers={len(answers)}"
        )
    return answers
