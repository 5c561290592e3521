"""SNLI-VE: statements about photos of Flickr30k; a photo entails a statement, contradicts it or leaves it open."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bridge_jax.config import as_json
from bridge_jax.data.datasets import photo_builder, raw_files
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.questions import Question

LABELS = ("contradiction", "neutral", "entailment")
SPLITS = ("train", "dev", "test")
UNDECIDED = "-"  # the label of a statement on which people did not agree


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `snli_ve_train.jsonl`, `snli_ve_dev.jsonl`, `snli_ve_test.jsonl`, and photos in `flickr30k-images/`.

    A line has its photo (`Flickr30K_ID`), its own name (`pairID`), the statement (`sentence2`) and the `gold_label`;
    where that is "-", people did not agree, and the line is left out. The splits keep their official names. A photo is
    one record, with all statements about it.
    """

    name = "snli_ve"
    STATEMENTS = True
    PUBLISHED: ClassVar = {"train": 29_783, "dev": 1_000, "test": 1_000}
    DESCRIPTION = "SNLI-VE, visual entailment: SNLI's hypotheses about the photos of Flickr30k."
    HOMEPAGE = "https://github.com/necla-ml/SNLI-VE"
    CITATION = "Xie, Lai, Doran, Kadav: Visual Entailment: A Novel Task for Fine-Grained Image Understanding. 2019."

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos with their statements, and call `refuse` for lines not read."""
        photos, image_ids, ids = {}, itertools.count(), itertools.count()
        for split in SPLITS:
            path = raw / f"snli_ve_{split}.jsonl"
            if not path.is_file():
                refuse(f"--raw_dir: no {path.name} in {raw}; fetch it from {cls.HOMEPAGE}")
                continue
            stated: dict[Path, list[Question]] = {}
            for photo, statement in _statements(raw, path, ids, refuse):
                stated.setdefault(photo, []).append(statement)
            photos[split] = [
                Photo(photo, next(image_ids), (), tuple(statements)) for photo, statements in stated.items()
            ]
            photo_builder.check({split: photos[split]}, path, refuse)
        return photos


def _statements(raw: Path, path: Path, ids: Iterator[int], refuse: Refuse) -> Iterator[tuple[Path, Question]]:
    """Yield the photo and the statement of every line on which people agreed."""
    known: set[str] = set()
    for number, line in raw_files.lines(path):
        try:
            entry = as_json.loads(line)
            photo, name, sentence = str(entry["Flickr30K_ID"]), str(entry["pairID"]), entry["sentence2"].strip()
            label = entry["gold_label"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            expected = "expected JSON with Flickr30K_ID, pairID, sentence2 and gold_label"
            refuse(f"{path}: line {number} is not a statement: {expected} ({error!r})")
            continue
        if name in known:
            refuse(f"{path}: line {number}: the pairID {name} is used twice; pairIDs must be unique")
        elif photo_builder.leaves(photo):
            refuse(f"{path}: line {number}: the photo {photo!r} lies outside the folder")
        elif label not in (*LABELS, UNDECIDED):
            refuse(f"{path}: line {number} ({name}) has the label {label!r}; expected {', '.join(LABELS)}")
        elif label != UNDECIDED:
            file = raw / "flickr30k-images" / f"{photo.removesuffix('.jpg')}.jpg"
            yield file, Question(next(ids), sentence, "hypothesis", (label,), name)
        known.add(name)
