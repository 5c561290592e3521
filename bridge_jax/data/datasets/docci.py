"""DOCCI: photos with one description of some 136 words each, many of pictures that differ in a detail.

Its files are described on https://google.github.io/docci/#downloads ("README" there), the sizes of its splits on
https://huggingface.co/datasets/google/docci.
"""

from pathlib import Path
from typing import ClassVar

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import lists, photo_builder
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

DESCRIPTIONS = "docci_descriptions.jsonlines"


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `docci_descriptions.jsonlines`, and `images/*.jpg` as `docci_images.tar.gz` unpacks it.

    A line has `example_id`, `split`, `image_file` and `description`. The splits keep their official names. The id of a
    photo is the number of its line.
    """

    name = "docci"
    LONG = True
    PUBLISHED: ClassVar = {"train": 9_647, "test": 5_000, "qual_dev": 100, "qual_test": 100}
    DESCRIPTION = "DOCCI, descriptions of connected and contrasting images: one long caption a photo."
    HOMEPAGE = "https://google.github.io/docci/"
    CITATION = "Onoe et al.: DOCCI: Descriptions of Connected and Contrasting Images. ECCV, 2024. arXiv 2404.19753."

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos in the order of the file, and call `refuse` for lines not read.

        Raises ConfigError where the file is missing.
        """
        file = raw / DESCRIPTIONS
        if not file.is_file():
            raise ConfigError(f"--raw_dir: no {DESCRIPTIONS} in {raw}; fetch it from {cls.HOMEPAGE}")
        photos: dict[str, list[Photo]] = {split: [] for split in cls.PUBLISHED}
        for line in lists.read(file, Columns("image_file", "description", "split")):
            name = str(line.image)
            if line.fault:
                refuse(f"{file}, line {line.number}: {line.fault}")
            elif line.split not in photos:
                refuse(f"{file}, line {line.number}: the split {line.split!r}; expected one of {', '.join(photos)}")
            elif photo_builder.leaves(name):
                refuse(f"{file}, line {line.number}: {name!r} leaves the folder; expected a name in images/")
            else:
                photos[line.split].append(Photo(raw / "images" / name, line.number, line.captions))
        photo_builder.check(photos, file, refuse)
        return {split: members for split, members in photos.items() if members}
