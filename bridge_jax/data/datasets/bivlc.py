"""BiVLC: a COCO photo with its caption, and a photo made for a wrong caption; is each told by text and by photo?"""

from collections.abc import Iterator
from pathlib import Path

from bridge_jax.data.datasets import compositionality, tables
from bridge_jax.data.datasets.compositionality import Item
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.raw_files import Packed


class Builder(compositionality.Builder, skip_registration=True):
    """Raw folder: the official `bivlc/*.parquet`, with the photos inside.

    The kind of an item is the type of its wrong caption: replace, swap or add.
    """

    name = "bivlc"
    DESCRIPTION = "BiVLC: captions and photos of COCO beside wrong captions and photos that were made for those."
    HOMEPAGE = "https://huggingface.co/datasets/imirandam/BiVLC"
    CITATION = (
        "Miranda et al.: BiVLC: Extending Vision-Language Compositionality Evaluation with Text-to-Image Retrieval. "
        "NeurIPS, 2024."
    )

    @classmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        for file in compositionality.files(raw / cls.name, "*.parquet", cls.HOMEPAGE):
            for number, row in enumerate(tables.rows(file), 1):
                try:
                    photos = [row["image"], row["negative_image"]]
                    captions = [row["caption"].strip(), row["negative_caption"].strip()]
                    kind = row["type"].strip()
                    if not all(isinstance(photo, Packed) for photo in photos):
                        raise TypeError("the photos are not inside")
                except (KeyError, TypeError, AttributeError) as error:
                    refuse(
                        f"{file}: row {number}: expected image, negative_image, caption, negative_caption, type "
                        f"({error!r})"
                    )
                else:
                    yield Item(file, kind, f"{file.stem}/{number}", compositionality.crossed(photos, captions))
