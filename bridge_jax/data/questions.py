"""Questions about a picture with the answers of ten people, statements, and the answers that a model chooses from.

A model chooses from a closed list. The preparation of a data set makes it and stores it beside the records, an answer a
line: the line number is the output of the vqa head. The decoder (`vqa_generative`) ranks the same list.

A statement about one or two pictures travels as a question whose only answer is its judgement: one of JUDGEMENTS
(NLVR2), or a label of the data set's own (SNLI-VE).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from bridge_jax import config
from bridge_jax.config import as_json
from bridge_jax.data import prepared, text

JUDGEMENTS = ("false", "true")
ANSWERS = "answers.txt"  # beside the records of a data set with questions


class Question(NamedTuple):
    """A question, stored with its record as JSON. `answers` is empty where they are secret (a test set)."""

    id: int  # unique within the data set
    text: str
    kind: str  # the score is split by it: the answer type of VQA v2, the topic in shapes
    answers: tuple[str, ...]
    name: str = ""  # its name in the data set's own evaluation; empty: none
    sentence: str = ""  # statements that share it say the same of other pictures; empty: none does

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Question":
        fields = as_json.loads(text)
        return cls(**fields | {"answers": tuple(fields["answers"])})


def save_answers(answers: Sequence[str], folder: Path) -> None:
    """Write the answers that a model chooses from, in the order of its outputs."""
    (folder / ANSWERS).write_text("".join(f"{answer}\n" for answer in answers), encoding="utf-8")


def load_answers(cfg: config.Config) -> tuple[str, ...]:
    """Return the answers prepared with the data set of the config.

    Raises ConfigError where it has none, and where their number differs from the outputs of the head.
    """
    path = prepared.prepared_folder(cfg.data) / ANSWERS
    if not path.is_file():
        raise config.ConfigError(
            f"config.data.dataset: {cfg.data.dataset!r} has no questions (no file {path}), but the losses "
            "and the evaluator of vqa read them; choose a data set with questions"
        )
    answers = tuple(path.read_text(encoding="utf-8").splitlines())
    for name, arguments in cfg.losses.items():
        if "answers" in arguments and arguments["answers"] != len(answers):
            raise config.ConfigError(
                f"config.losses.{name}.answers is {arguments['answers']}, but {path} lists {len(answers)}; "
                f"set config.losses.{name}.answers={len(answers)}"
            )
    return answers


def load_answer_words(cfg: config.Config) -> tuple[Int32[np.ndarray, "A T"], Bool[np.ndarray, "A T"]]:
    """Return the answers as the decoder writes them, in the model's own tokens: ids, and a mask False on padding.

    Raises ConfigError as `load_answers` does, and where the vocabulary cannot start an answer or lacks a word of one,
    or the model's length cuts one.
    """
    known, tokenizer = load_answers(cfg), text.load(cfg.data, cfg.text)
    tokenizer.frame  # noqa: B018
    for answer, measure in zip(known, tokenizer.measure(known), strict=True):
        if measure.unknown:
            raise config.ConfigError(
                f"config.data.vocabulary: {tokenizer.path} has no token for {measure.unknown[0]!r} of the answer "
                f"{answer!r}, which the vqa_generative loss writes; take a vocabulary that has one, or the vqa loss"
            )
        if measure.length > tokenizer.length:
            raise config.ConfigError(
                f"config.text.length is {tokenizer.length}, but the answer {answer!r} has {measure.length} tokens, "
                f"counting those around it; set config.text.length={measure.length} or more"
            )
    return tokenizer.encode(known)
