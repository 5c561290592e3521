"""The classes of zero-shot classification, and the templates that make their prompts: "a photo of a {c}.".

The preparation of a data set stores both beside the records, a class and a template a line. A photo has its class as
the answer to a question; the name of the question is the number of the class, counted from 0.
"""

from pathlib import Path
from typing import NamedTuple

from bridge_jax import config
from bridge_jax.data import prepared
from bridge_jax.data.datasets import raw_files
from bridge_jax.data.questions import Question
from bridge_jax.data.records import Record

CLASSES, TEMPLATES = "classes.txt", "templates.txt"  # beside the records of a data set with classes
PLACE = "{c}"  # of the class in a template
KIND = "class"  # of the question


class Classes(NamedTuple):
    """The names of the classes, in the order of their numbers, and the templates."""

    names: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """Every class in every template: those of the first class come first."""
        return [template.replace(PLACE, name) for name in self.names for template in self.templates]

    def question(self, number: int, id_: int) -> Question:
        """Return the question that a photo of this class answers."""
        return Question(id_, "What is in the photo?", KIND, (self.names[number],), str(number))

    def of(self, record: Record) -> int:
        """Return the number of a record's class. Raises ConfigError where it has another name now."""
        question = next(question for question in record["questions"] if question.kind == KIND)
        number = int(question.name)
        if self.names[number : number + 1] != question.answers:
            raise config.ConfigError(
                f"{CLASSES} beside the records has changed: its line {number + 1} is no longer "
                f"{question.answers[0]!r}, the class of {record['filename']}; put it back, or prepare the data set anew"
            )
        return number

    def save(self, folder: Path) -> None:
        """Write both files beside the records."""
        for file, lines in ((CLASSES, self.names), (TEMPLATES, self.templates)):
            (folder / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load(data: config.Data) -> Classes:
    """Return the classes prepared with the data set. Raises ConfigError where it has none, or a template no place."""
    files = [prepared.prepared_folder(data) / name for name in (CLASSES, TEMPLATES)]
    if not all(file.is_file() for file in files):
        raise config.ConfigError(
            f"config.data.dataset: {data.dataset!r} has no classes (no file {files[0]}), but the zero_shot evaluator "
            "reads them; choose imagefolder"
        )
    names, templates = (tuple(line.strip() for _, line in raw_files.lines(file)) for file in files)
    if not templates or any(PLACE not in template for template in templates):
        raise config.ConfigError(f"{files[1]}: expected templates, a line each, with {PLACE} for the class")
    return Classes(names, templates)
