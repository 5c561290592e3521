"""NLVR2: statements about two photographs, true or false, from the official JSON lines files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.data.datasets import photo_builder, statements
from bridge_jax.data.datasets.statements import Place

_IDENTIFIER = re.compile(r"(?P<split>\w+)-(?P<set>\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")


class Builder(statements.Builder, skip_registration=True):
    """Raw folder: `train.json`, `dev.json`, `test1.json` (and `test2.json`), and the photos.

    Photos lie in `images/<split>/` or in `<split>/`. Those of train lie one folder deeper, in the folder that the field
    `directory` names: `images/train/42/train-10171-0-img0.png` (left) and `-img1.png` (right) for the statements
    `train-10171-0-0` and `train-10171-0-1`. Despite their names, not all are PNGs. The splits keep their official
    names. A pair is one record.
    """

    name = "nlvr2"
    PAIRS = True
    FILES: ClassVar = {split: (f"{split}.json",) for split in ("train", "dev", "test1", "test2")}
    DESCRIPTION = "Natural language for visual reasoning, for real: statements about pairs of web photographs."
    HOMEPAGE = "https://lil.nlp.cornell.edu/nlvr/"
    CITATION = "Suhr et al.: A Corpus for Reasoning about Natural Language Grounded in Photographs. arXiv 1811.00491."

    @classmethod
    def place(cls, raw: Path, split: str, entry: Mapping[str, Any]) -> Place:
        """Return the two photos of a statement, and its identifier without the pair (the official grouping)."""
        parts = _IDENTIFIER.fullmatch(entry["identifier"])
        if not parts:
            raise ValueError(f"identifier {entry['identifier']!r} is not split-set-pair-sentence")
        folder = next((d for d in (raw / "images" / split, raw / split) if d.is_dir()), raw / "images" / split)
        if "directory" in entry:
            folder /= str(entry["directory"])
            if photo_builder.leaves(str(entry["directory"])):
                raise ValueError(f"the directory {entry['directory']!r} lies outside the folder")
        pair = f"{parts['split']}-{parts['set']}-{parts['pair']}"
        paths = (folder / f"{pair}-img0.png", folder / f"{pair}-img1.png")
        return Place(paths, f"{parts['split']}-{parts['set']}-{parts['sentence']}")
