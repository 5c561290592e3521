"""Read a data set of statements that are true or false of pictures: JSON lines, one statement each (NLVR2, NLVR).

A line has `identifier`, `sentence` and `label`, which is true or false in upper or lower case. A subclass knows where
the files lie and which pictures a line is about. A record holds the pictures and all statements about them, in the
order of the file. The identifier of a statement becomes its name; its `sentence` is a key shared by statements that say
the same of other pictures.
"""

import abc
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from bridge_jax.config import as_json
from bridge_jax.data.datasets import photo_builder, raw_files
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.questions import JUDGEMENTS, Question

TRAIN = "train"


class Place(NamedTuple):
    """The pictures that a statement is about, and the key that it shares with statements that say the same."""

    paths: tuple[Path, ...]
    sentence: str


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the pictures of statements. A subclass names the files and reads the place of a line."""

    STATEMENTS = True
    FILES: ClassVar[Mapping[str, tuple[str, ...]]]  # split -> file names; the first that exists is used

    @classmethod
    @abc.abstractmethod
    def place(cls, raw: Path, split: str, entry: Mapping[str, Any]) -> Place:
        """Return the place of a line. Raises ValueError, KeyError or TypeError for a line that cannot be read."""

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> pictures with their statements, and call `refuse` for lines and labels not read."""
        photos, image_ids, ids = {}, itertools.count(), itertools.count()
        for split, names in cls.FILES.items():
            path = next((raw / name for name in names if (raw / name).is_file()), None)
            if path is not None:
                photos[split] = cls._pictures(raw, path, split, image_ids, ids, refuse)
                photo_builder.check({split: photos[split]}, path, refuse)
        if TRAIN not in photos:
            refuse(f"--raw_dir: no {' or '.join(cls.FILES[TRAIN])} in {raw}; fetch it from {cls.HOMEPAGE}")
        return photos

    @classmethod
    def _pictures(
        cls, raw: Path, path: Path, split: str, image_ids: Iterator[int], ids: Iterator[int], refuse: Refuse
    ) -> list[Photo]:
        """Return the pictures of a file in the order in which its lines name them."""
        stated: dict[tuple[Path, ...], list[Question]] = {}
        known: set[str] = set()
        for number, line in raw_files.lines(path):
            try:
                entry = as_json.loads(line)
                name, sentence = str(entry["identifier"]), entry["sentence"].strip()
                place = cls.place(raw, split, entry)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                expected = "expected JSON with an identifier and a sentence"
                refuse(f"{path}: line {number} is not a statement: {expected} ({error!r})")
                continue
            if name in known:
                refuse(f"{path}: line {number}: the identifier {name} is used twice; identifiers must be unique")
            known.add(name)
            answers = cls._answers(entry, split, f"{path}: line {number} ({name})", refuse)
            statement = Question(next(ids), sentence, "statement", answers, name, place.sentence)
            stated.setdefault(place.paths, []).append(statement)
        return [
            Photo(paths[0], next(image_ids), (), tuple(statements), second=next(iter(paths[1:]), None))
            for paths, statements in stated.items()
        ]

    @classmethod
    def _answers(cls, entry: Mapping[str, Any], split: str, where: str, refuse: Refuse) -> tuple[str, ...]:
        """Return the judgement as the only answer, or no answer, as all splits but train may have none."""
        label = entry.get("label")
        if label is None and split != TRAIN:
            return ()
        if str(label).lower() not in JUDGEMENTS:
            fault = "has no label" if label is None else f"has the label {label!r}"
            refuse(f"{where} {fault}; expected True or False")
            return ()
        return (str(label).lower(),)
