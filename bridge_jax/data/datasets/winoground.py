"""Winoground: two photos and two captions of the same words in another order; which belongs to which?"""

from collections.abc import Iterator
from pathlib import Path

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import compositionality, raw_files
from bridge_jax.data.datasets.compositionality import Item
from bridge_jax.data.datasets.photo_builder import Refuse


class Builder(compositionality.Builder, skip_registration=True):
    """Raw folder: the official `examples.jsonl`, and its photos in `images/`.

    The files are behind a licence that each user accepts on the Hugging Face hub. The kind of an item is its
    `collapsed_tag`: Object, Relation or Both.
    """

    name = "winoground"
    DESCRIPTION = "Winoground: pairs of photos and captions; the two captions have the same words in another order."
    HOMEPAGE = "https://huggingface.co/datasets/facebook/winoground"
    CITATION = (
        "Thrush et al.: Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality. "
        "CVPR, 2022."
    )

    @classmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        file = raw / "examples.jsonl"
        if not file.is_file():
            raise ConfigError(f"--raw_dir: no {file.name} in {raw}; fetch it from {cls.HOMEPAGE}")
        folder = compositionality.folder_of(raw, "images", "the photos of images.zip")
        for number, line in raw_files.lines(file):
            try:
                item = as_json.loads(line)
                photos = [compositionality.inside(folder, f"{item[f'image_{i}']}.png") for i in (0, 1)]
                captions = [item[f"caption_{i}"].strip() for i in (0, 1)]
                kind, name = str(item["collapsed_tag"]).strip().lower(), f"winoground/{item['id']}"
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                refuse(
                    f"{file}: line {number}: expected id, image_0, image_1, caption_0, caption_1, collapsed_tag "
                    f"({error!r})"
                )
            else:
                yield Item(file, kind, name, compositionality.crossed(photos, captions))
