"""Questions about a picture, what ten people answered, and the answers that a model chooses from; and statements.

The answers are a closed list, made when a data set is prepared and stored beside its records, one a line: the line
number is the output of the vqa head.

A statement about a picture or two (NLVR2) travels as a question whose only answer is one of JUDGEMENTS.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bridge_jax import config
from bridge_jax.data import datasets

JUDGEMENTS = ("false", "true")
ANSWERS = "answers.txt"  # stored beside the records by a data set with questions


class Question(NamedTuple):
    """A question as it travels with its record, as JSON. `answers` is empty where nobody may see them (a test set)."""

    id: int  # unique within the data set
    text: str
    kind: str  # by which the score is split: the answer type of VQA v2, what is asked about in shapes
    answers: tuple[str, ...]
    name: str = ""  # what the data set's own evaluation calls it; empty: nothing
    sentence: str = ""  # statements with the same one say the same of other pictures; empty: nobody else says it

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Question":
        fields = json.loads(text)
        return cls(**fields | {"answers": tuple(fields["answers"])})


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
