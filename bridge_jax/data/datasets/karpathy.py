"""Read a photo data set from Karpathy's split file (`dataset_<name>.json`); the photo builders share this.

The JSON holds `images`, each with `filename`, `imgid`, `split`, `sentences` (each with `raw`) and, for COCO, `filepath`
(the year folder) and `cocoid`. A split that the file does not name is not written.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder, raw_files
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "test": "test",
}  # COCO's restval joins train, as in all published work


def survey(annotations: Path, image_dirs: Sequence[Path], refuse: Refuse) -> dict[str, list[Photo]]:
    """Return split -> photos in the order of the file.

    Images lie in the first of `image_dirs` that exists, under `filepath/` where the JSON has one. `refuse` is called
    for an entry that is no image, an unknown split, an image without captions and a missing year folder. Raises
    ConfigError where nothing can be read: for a missing file or image folder and for a JSON of another kind.
    """
    if not annotations.is_file():
        raise ConfigError(f"--raw_dir: no {annotations.name} in {annotations.parent}; put Karpathy's split file there")
    image_dir = next((d for d in image_dirs if d.is_dir()), None)
    if image_dir is None:
        wanted = " or ".join(f"{d.name}/" for d in image_dirs)
        raise ConfigError(f"--raw_dir: no image folder {wanted} in {annotations.parent}")
    try:
        entries = as_json.loads(annotations.read_text(encoding="utf-8-sig"))["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{annotations} is not a Karpathy split file: expected JSON with a list `images` ({error!r})"
        ) from error
    photos: dict[str, list[Photo]] = collections.defaultdict(list)
    if not isinstance(entries, list):
        raise ConfigError(f"{annotations} is not a Karpathy split file: expected a list `images`, got {entries!r:.60}")
    for position, entry in enumerate(entries):
        try:
            photo, split = _photo(entry, image_dir), str(entry["split"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refuse(f"{annotations}: images[{position}] has no usable {error}")
            continue
        if split not in SPLITS:
            refuse(f"{annotations}: image {photo.path.name} is in split {split!r}; expected one of {', '.join(SPLITS)}")
            continue
        if not photo.captions:
            refuse(
                f"{annotations}: image {photo.path.name} (images[{position}]) has no caption; write one or delete the "
                "image from the file"
            )
        photos[SPLITS[split]].append(photo)
    photo_builder.check(photos, annotations, refuse)
    return dict(photos)


def _photo(entry: Mapping[str, Any], image_dir: Path) -> Photo:
    name = PurePosixPath(entry.get("filepath", ""), entry["filename"])
    if photo_builder.leaves(str(name)):
        raise ValueError(f"place: '{name}' leaves the folder; expected a path inside {image_dir}")
    image_id = entry["cocoid"] if "cocoid" in entry else entry["imgid"]
    path = raw_files.located(image_dir, str(name), photo_builder.at_once)
    return Photo(path, photo_builder.whole(image_id), tuple(s["raw"].strip() for s in entry["sentences"]))


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the photos of a Karpathy file."""

    ANNOTATIONS: str  # file name in the raw folder
    IMAGE_DIRS: tuple[str, ...]  # folders in the raw folder; the first that exists is used

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder, calling `refuse` for every fault. Raises ConfigError (`survey`)."""
        return survey(raw / cls.ANNOTATIONS, [raw / d for d in cls.IMAGE_DIRS], refuse)
