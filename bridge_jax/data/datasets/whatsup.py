"""What'sUp: is the true preposition told from the others (left of, right of, on, under, in front of, behind)?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import compositionality
from bridge_jax.data.datasets.compositionality import Item
from bridge_jax.data.datasets.photo_builder import Refuse

CONTROLLED = {"controlled_images_dataset": "controlled_images", "controlled_clevr_dataset": "controlled_clevr"}
QUESTIONS = {  # file -> the folder of its photos, the digits of their names
    "coco_qa_one_obj": ("val2017", 12),
    "coco_qa_two_obj": ("val2017", 12),
    "vg_qa_one_obj": ("vg_images", 0),
    "vg_qa_two_obj": ("vg_images", 0),
}


class Builder(compositionality.Builder, skip_registration=True):
    """Raw folder: some of the official files, and the folders of their photos beside them.

    `controlled_images_dataset.json` and `controlled_clevr_dataset.json` have four captions a photo, the first of them
    true. Four photos of the same two objects are a set, and two of opposite prepositions a pair; the benchmark also
    counts those that are right as a whole. `coco_qa_*.json` (COCO's `val2017/`) and `vg_qa_*.json` (`vg_images/`) have
    a true and a false caption. The kind of an item is the name of its file.
    """

    name = "whatsup"
    DESCRIPTION = "What'sUp: photos of two objects with captions that differ by a preposition."
    HOMEPAGE = "https://github.com/amitakamath/whatsup_vlms"
    CITATION = (
        'Kamath et al.: What\'s "up" with vision-language models? Investigating their struggle with spatial reasoning. '
        "EMNLP, 2023."
    )

    @classmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        known = (*CONTROLLED, *QUESTIONS)
        files = [raw / f"{name}.json" for name in known if (raw / f"{name}.json").is_file()]
        if not files:
            raise ConfigError(
                f"--raw_dir: none of {', '.join(f'{name}.json' for name in known)} in {raw}; fetch some from "
                f"{cls.HOMEPAGE}"
            )
        for file in files:
            folder, digits = QUESTIONS.get(file.stem, (CONTROLLED.get(file.stem, ""), 0))
            photos = compositionality.folder_of(raw, folder, f"the photos of {file.name}")
            for number, row in compositionality.rows(file, "What'sUp"):
                try:
                    if file.stem in CONTROLLED:
                        name, (photo, captions) = _controlled(row)
                    else:
                        image, *captions = row
                        name, photo = number, f"{str(image).zfill(digits)}.jpg"
                    said = tuple((caption.strip(), place == 0) for place, caption in enumerate(captions))
                    if len(said) < 2:
                        raise ValueError(f"{len(said)} captions")
                    yield Item(
                        file, file.stem, f"{file.stem}/{name}", ((compositionality.inside(photos, photo), said),)
                    )
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    refuse(f"{file}: item {number}: expected a photo, its true caption and false ones ({error!r})")


def _controlled(row: Mapping[str, Any]) -> tuple[str, tuple[str, Sequence[str]]]:
    """Return SET/PAIR/ID, the photo and the captions. A photo's name says all, such as `mug_left_of_plate.jpeg`.

    As the authors count, its first and last words are the objects of a set, and the second is the preposition.
    """
    photo = Path(row["image_path"]).name
    words = Path(photo).stem.split("_")
    if len(words) < 3:
        raise ValueError(f"the photo {photo!r}: expected a name such as mug_left_of_plate.jpeg")
    pair = "sideways" if words[1] in ("left", "right") else "other"
    return f"{words[0]} {words[-1]}/{pair}/{words[1]}", (photo, row["caption_options"])
