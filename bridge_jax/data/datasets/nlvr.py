"""NLVR: statements about a drawn picture of three boxes, true or false."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.data.datasets import photo_builder, statements
from bridge_jax.data.datasets.statements import Place


class Builder(statements.Builder, skip_registration=True):
    """Raw folder: `train.jsonl`, `dev.jsonl` (and `test.jsonl`), whose field `image` names the picture of a line.

    Or the corpus as published: `train/train.json` and `train/images/<directory>/train-<identifier>-0.png`, the first of
    the six orders in which it draws the boxes. A sentence is written for up to four pictures, with identifiers `n-0` to
    `n-3`. The splits keep their official names. A picture is one record.
    """

    name = "nlvr"
    FILES: ClassVar = {split: (f"{split}.jsonl", f"{split}/{split}.json") for split in ("train", "dev", "test")}
    DESCRIPTION = "Natural language for visual reasoning: statements about synthetic pictures."
    HOMEPAGE = "https://lil.nlp.cornell.edu/nlvr/"
    CITATION = "Suhr, Lewis, Yeh, Artzi: A Corpus of Natural Language for Visual Reasoning. ACL, 2017."

    @classmethod
    def place(cls, raw: Path, split: str, entry: Mapping[str, Any]) -> Place:
        """Return the picture of a statement, and the first part of its identifier, which names the sentence."""
        identifier = entry["identifier"]
        path = (
            f"{split}/images/{entry['directory']}/{split}-{identifier}-0.png"
            if "image" not in entry
            else entry["image"]
        )
        if photo_builder.leaves(path):
            raise ValueError(f"the picture {path!r} lies outside the folder")
        return Place((raw / path,), f"{split}-{identifier.partition('-')[0]}")
