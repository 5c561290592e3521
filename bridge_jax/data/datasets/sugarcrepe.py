"""SugarCrepe: is a caption of a COCO photo told from one that is wrong by an object, an attribute or a relation?"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.questions import JUDGEMENTS, Question

FALSE, TRUE = JUDGEMENTS
WRONG = "negative_caption"


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: the official `sugarcrepe/*.json`, and COCO's photos in `val2017/`. The one split is `test`.

    A record is a photo with the captions of all its items as statements: those that are true of it, and the false one.
    The kind of a statement is the name of its file, such as `swap_att`; `kind/id` is the name of its item.
    """

    name = "sugarcrepe"
    STATEMENTS = True
    RIGHT: ClassVar[tuple[str, ...]] = ("caption",)  # keys of the captions that are true
    DESCRIPTION = "SugarCrepe: captions of COCO val2017 beside hard negatives that a language model wrote fluently."
    HOMEPAGE = "https://github.com/RAIVNLab/sugar-crepe"
    CITATION = (
        "Hsieh et al.: SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality. NeurIPS, 2023."
    )

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the photos of `test` with their captions; call `refuse` for items not read.

        Raises ConfigError where there is no file or no folder of photos, and for a file of another kind.
        """
        folder = raw / "val2017"
        files = sorted((raw / cls.name).glob("*.json"))
        if not files:
            raise ConfigError(f"--raw_dir: no {cls.name}/*.json in {raw}; fetch them from {cls.HOMEPAGE}")
        if not folder.is_dir():
            raise ConfigError(f"--raw_dir: no image folder val2017/ in {raw}; put COCO's photos of val2017 there")
        ids, said = itertools.count(), {}
        for file in files:
            for name, statements in cls._items(file, ids, refuse):
                said.setdefault(folder / name, []).extend(statements)
        photos = [Photo(path, number, (), tuple(statements)) for number, (path, statements) in enumerate(said.items())]
        photo_builder.check({"test": photos}, files[0], refuse)
        return {"test": photos}

    @classmethod
    def _items(cls, file: Path, ids: Iterator[int], refuse: Refuse) -> Iterator[tuple[str, list[Question]]]:
        """Yield the photo's name and the statements of every item of a file."""
        keys = (*cls.RIGHT, WRONG)
        for number, item in _rows(file):
            try:
                photo, captions = str(item["filename"]), [item[key].strip() for key in keys]
            except (KeyError, TypeError, AttributeError) as error:
                refuse(f"{file}: item {number}: expected a filename, {' and '.join(keys)} ({error!r})")
                continue
            if photo_builder.leaves(photo):
                refuse(f"{file}: item {number}: the photo {photo!r} leaves the folder; expected a name in val2017/")
                continue
            yield (
                photo,
                [
                    Question(next(ids), caption, file.stem, (FALSE if key == WRONG else TRUE,), f"{file.stem}/{number}")
                    for key, caption in zip(keys, captions, strict=True)
                ],
            )


def _rows(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the items of a file with their ids: a map of them, or in SugarCrepe++ a list. Raises ConfigError."""
    try:
        content = as_json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
        rows = content.items() if isinstance(content, dict) else [(row["id"], row) for row in content]
        found = [(str(number), row) for number, row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is no file of SugarCrepe: expected JSON with items by their id ({error!r})"
        ) from error
    if len(dict(found)) < len(found):
        raise ConfigError(f"{file}: two items have one id; fetch the file again")
    return found
