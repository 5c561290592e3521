"""nocaps: captions of photos of Open Images, most with objects that COCO's captions do not name; to evaluate on."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

DOMAINS = ("in-domain", "near-domain", "out-domain")
VAL = "nocaps_val_4500_captions.json"
FILES = {  # split -> the official file, and the folders that may hold its photos; the first that exists is used
    "val": (VAL, ("val", "images/val", "validation")),
    "test": ("nocaps_test_image_info.json", ("test", "images/test")),
}


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `nocaps_val_4500_captions.json` with photos in `val/`; also `nocaps_test_image_info.json`, `test/`.

    The kind of a caption is the domain of its photo: `in-domain` where it shows only classes of COCO, `out-domain`
    where it shows none of them, else `near-domain`. Photos of `test` have no captions. Image ids are those of the
    official files, as the benchmark's server expects them: unique within a split, since each split has its own file.
    """

    name = "nocaps"
    IDS_OF_SPLIT = True
    PUBLISHED: ClassVar = {"val": 4_500, "test": 10_600}
    DESCRIPTION = "nocaps, novel object captioning at scale: photos of Open Images, 10 captions a photo of val."
    HOMEPAGE = "https://nocaps.org/"
    CITATION = "Agrawal et al.: nocaps: novel object captioning at scale. ICCV, 2019. arXiv 1812.08658."

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos; call `refuse` for entries not read, ids used twice and photos without captions.

        Raises ConfigError where the file of val or a folder is missing, and for a file of another kind.
        """
        if not (raw / VAL).is_file():
            raise ConfigError(f"--raw_dir: no {VAL} in {raw}; fetch it from {cls.HOMEPAGE}")
        photos = {}
        for split, (name, folders) in FILES.items():
            if (raw / name).is_file():
                folder = next((raw / folder for folder in folders if (raw / folder).is_dir()), None)
                if folder is None:
                    raise ConfigError(
                        f"--raw_dir: no image folder {folders[0]}/ in {raw}; put the photos of {name} there"
                    )
                photos[split] = _photos(raw / name, folder, split == "val", refuse)
                photo_builder.check({split: photos[split]}, raw / name, refuse)
        return photos


def _photos(file: Path, folder: Path, described: bool, refuse: Refuse) -> list[Photo]:
    """Return the photos of a file, with captions where they are `described`."""
    try:
        content = as_json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
        images, annotations = content["images"], content["annotations"] if described else ()
    except (ValueError, KeyError, TypeError) as error:
        lists = "`images` and `annotations`" if described else "`images`"
        raise ConfigError(f"{file} is not a nocaps file: expected JSON with {lists} ({error!r})") from error
    captions = _captions(file, annotations, refuse)
    photos: dict[int, Photo] = {}
    for position, entry in enumerate(images):
        try:
            image_id, name, domain = entry["id"], str(entry["file_name"]), entry["domain"] if described else DOMAINS[0]
        except (KeyError, TypeError) as error:
            refuse(f"{file}: images[{position}] has no usable {error}")
            continue
        if type(image_id) is not int or image_id in photos:
            refuse(f"{file}: images[{position}] has the id {image_id!r}; expected a number that no other image has")
        elif photo_builder.leaves(name):
            refuse(f"{file}: images[{position}]: {name!r} leaves the folder; expected a path inside {folder}")
        elif domain not in DOMAINS:
            refuse(f"{file}: images[{position}] has the domain {domain!r}; expected one of {', '.join(DOMAINS)}")
        elif described and image_id not in captions:
            refuse(f"{file}: images[{position}], id {image_id}, has no caption; fetch the file again")
        else:
            photos[image_id] = Photo(folder / name, image_id, tuple(captions[image_id]), kind=domain)
    if idle := captions.keys() - photos.keys():
        refuse(f"{file}: a caption belongs to image {min(idle)}, which `images` lacks")
    return list(photos.values())


def _captions(file: Path, annotations: Sequence[Any], refuse: Refuse) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = collections.defaultdict(list)
    for position, entry in enumerate(annotations):
        image_id, caption = (entry.get(key) for key in ("image_id", "caption")) if isinstance(entry, dict) else (0, 0)
        if type(image_id) is int and isinstance(caption, str):
            captions[image_id].append(caption.strip())
        else:
            refuse(f"{file}: annotations[{position}]: expected an `image_id` and a `caption`")
    return captions
