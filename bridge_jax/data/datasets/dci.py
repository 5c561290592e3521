"""DCI, Densely Captioned Images: photos of SA-1B, each with a caption and a long text on what else is in it.

The files are those that https://github.com/facebookresearch/DCI describes (its README, and dense_image.py and impl.py
in dataset/densely_captioned_images/dataset/). The caption of a photo is `short_caption` and, on the next line,
`extra_caption`: its `get_extended_caption`. LoTLIP (arXiv 2410.05249) retrieves by the same captions, among the photos
of all splits (dataloaders/dci_retrieval.py of https://github.com/wuw2019/LoTLIP). The texts on masks, which are parts
of a photo, are not read.
"""

from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

SPLITS = "splits.json"
FULL = "full"  # `all` means something to tfds


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `splits.json` and `annotations/*.json` of `dci.tar.gz`, and in `photos/` those of `sa_000138.tar`.

    `splits.json` lists the annotations of `train`, `valid` and `test`. An annotation has `image`, the name of the
    photo, beside the captions. The split `full` has the photos of these three once more. The id of a photo is its place
    in `full`.
    """

    name = "dci"
    LONG = True
    SUBSETS: ClassVar = {"train": FULL, "valid": FULL, "test": FULL}
    PUBLISHED: ClassVar = {FULL: 7_805}
    DESCRIPTION = "DCI, Densely Captioned Images: one long caption a photo."
    HOMEPAGE = "https://github.com/facebookresearch/DCI"
    CITATION = (
        "Urbanek et al.: A Picture is Worth More Than 77 Text Tokens: Evaluating CLIP-Style Models on Dense Captions. "
        "CVPR, 2024. arXiv 2312.08578."
    )

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos in the order of `splits.json`, and call `refuse` for annotations not read.

        Raises ConfigError where `splits.json` is missing or of another kind.
        """
        photos: dict[str, list[Photo]] = {}
        everything: list[Photo] = []
        for split, names in _splits(raw / SPLITS, cls.HOMEPAGE).items():
            photos[split] = []
            for name in names:
                try:
                    photo = _photo(raw, name, len(everything))
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    refuse(
                        f"{raw / 'annotations' / str(name)}, in the split {split!r}: expected JSON with image, "
                        f"short_caption and extra_caption ({error!r})"
                    )
                    continue
                photos[split].append(photo)
                everything.append(photo)
        photo_builder.check({FULL: everything}, raw / SPLITS, refuse)
        return {split: members for split, members in photos.items() if members} | {FULL: everything}


def _splits(file: Path, homepage: str) -> dict[str, list[Any]]:
    """Return split -> names of annotations. Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(f"--raw_dir: no {file.name} in {file.parent}; fetch dci.tar.gz as {homepage} says")
    try:
        content = as_json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
        return {split: list(content[split]) for split in ("train", "valid", "test")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: expected JSON with the lists train, valid and test ({error!r})") from error


def _photo(raw: Path, name: str, image_id: int) -> Photo:
    if photo_builder.leaves(name):
        raise ValueError(f"{name!r} leaves the folder; expected a name in annotations/")
    entry = as_json.loads((raw / "annotations" / name).read_text(encoding="utf-8-sig", errors="replace"))
    image, short, extra = (entry[key].strip() for key in ("image", "short_caption", "extra_caption"))
    if photo_builder.leaves(image):
        raise ValueError(f"{image!r} leaves the folder; expected a name in photos/")
    return Photo(raw / "photos" / image, image_id, (f"{short}\n{extra}".strip(),))
