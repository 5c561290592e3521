"""SugarCrepe: is a caption of a COCO photo told from one that is wrong by an object, an attribute or a relation?"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bridge_jax.data.datasets import compositionality
from bridge_jax.data.datasets.compositionality import Item
from bridge_jax.data.datasets.photo_builder import Refuse

WRONG = "negative_caption"


class Builder(compositionality.Builder, skip_registration=True):
    """Raw folder: the official `sugarcrepe/*.json`, and COCO's photos in `val2017/`.

    The kind of an item is the name of its file, such as `swap_att`.
    """

    name = "sugarcrepe"
    RIGHT: ClassVar[tuple[str, ...]] = ("caption",)  # keys of the captions that are true
    DESCRIPTION = "SugarCrepe: captions of COCO val2017 beside hard negatives that a language model wrote fluently."
    HOMEPAGE = "https://github.com/RAIVNLab/sugar-crepe"
    CITATION = (
        "Hsieh et al.: SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality. NeurIPS, 2023."
    )

    @classmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        files = compositionality.files(raw / cls.name, "*.json", cls.HOMEPAGE)
        folder, keys = compositionality.folder_of(raw, "val2017", "COCO's photos of val2017"), (*cls.RIGHT, WRONG)
        for file in files:
            for number, item in compositionality.rows(file, "SugarCrepe"):
                try:
                    photo = compositionality.inside(folder, str(item["filename"]))
                    captions = tuple((item[key].strip(), key != WRONG) for key in keys)
                except (KeyError, TypeError, AttributeError) as error:
                    refuse(f"{file}: item {number}: expected a filename, {' and '.join(keys)} ({error!r})")
                except ValueError as error:
                    refuse(f"{file}: item {number}: {error}")
                else:
                    yield Item(file, file.stem, f"{file.stem}/{number}", ((photo, captions),))
