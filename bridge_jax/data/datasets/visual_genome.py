"""Visual Genome: photos with some fifty short phrases each, every one about a region; for pre-training.

Each phrase serves as a caption of the whole photo, and its box is not read, as in ViLT (arXiv 2102.03334; its
vilt/utils/write_vg.py keeps the image and the phrase of every region) and after it in METER (arXiv 2111.02387). Each
time the photo is shown, one phrase is drawn, as one of the five captions of a COCO photo is. Phrases of a photo that
differ only in capitals and spaces are kept once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

IMAGES, REGIONS = "image_data.json", "region_descriptions.json"
FOLDERS = ("VG_100K", "VG_100K_2")


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `image_data.json`, `region_descriptions.json`, `VG_100K/` and `VG_100K_2/` with `<image_id>.jpg`.

    All of it is one split, `train`. A photo without phrases is left out. The file of regions has 0.7 GB, and reading it
    takes about twice as much memory.
    """

    name = "visual_genome"
    PUBLISHED: ClassVar = {"train": 108_077}
    DESCRIPTION = "Visual Genome 1.2, 108,077 photos, 5.4 million phrases about regions, as captions of the photo."
    HOMEPAGE = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
    CITATION = "Krishna et al.: Visual Genome. IJCV 123, 2017. arXiv 1602.07332."

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos; call `refuse` for entries not read, ids used twice and regions of unknown photos.

        Each photo is looked for in both folders. Raises ConfigError where a file or both folders are missing.
        """
        for name in (IMAGES, REGIONS):
            if not (raw / name).is_file():
                raise ConfigError(f"--raw_dir: no {name} in {raw}; fetch it from {cls.HOMEPAGE}")
        folders = [raw / name for name in FOLDERS if (raw / name).is_dir()]
        if not folders:
            raise ConfigError(f"--raw_dir: no image folder {' or '.join(f'{name}/' for name in FOLDERS)} in {raw}")
        coco_ids = dict(_images(raw / IMAGES, refuse))
        phrases = _phrases(raw / REGIONS, coco_ids.keys(), refuse)
        photos = [
            Photo(_path(folders, image_id), image_id, phrases[image_id], coco_id=coco_id)
            for image_id, coco_id in coco_ids.items()
            if phrases.get(image_id)
        ]
        photo_builder.check({"train": photos}, raw / REGIONS, refuse)
        return {"train": photos}


def _path(folders: Sequence[Path], image_id: int) -> Path:
    paths = [folder / f"{image_id}.jpg" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def _images(file: Path, refuse: Refuse) -> Iterator[tuple[int, int | None]]:
    """Yield the id of every photo with its id in COCO, None where COCO does not have it."""
    known = set()
    for position, entry in enumerate(_list(file, None)):
        image_id, coco_id = (entry.get(key) for key in ("image_id", "coco_id")) if isinstance(entry, dict) else (0, "")
        if type(image_id) is not int or not isinstance(coco_id, int | None):
            refuse(f"{file}: entry {position}: expected an `image_id` and a `coco_id`, a number or null")
        elif image_id in known:
            refuse(f"{file}: image id {image_id} is used twice; ids must be unique")
        else:
            known.add(image_id)
            yield image_id, coco_id


def _phrases(file: Path, known: Any, refuse: Refuse) -> dict[int, tuple[str, ...]]:
    """Return the phrases of each of the `known` photos, in the order of the file."""
    phrases: dict[int, tuple[str, ...]] = {}
    for position, entry in enumerate(_list(file, _slim)):
        image_id, regions = entry if isinstance(entry, tuple) else (None, None)
        if type(image_id) is not int or not isinstance(regions, list) or not all(isinstance(r, str) for r in regions):
            refuse(f"{file}: entry {position}: expected an `id` and `regions`, each with a `phrase`")
        elif image_id not in known:
            refuse(f"{file}: entry {position} belongs to image {image_id}, which {IMAGES} lacks; fetch both again")
        elif image_id in phrases:
            refuse(f"{file}: image id {image_id} is used twice; ids must be unique")
        else:
            unique: dict[str, str] = {}
            for phrase in regions:
                unique.setdefault(" ".join(phrase.split()).casefold(), phrase.strip())
            phrases[image_id] = tuple(unique.values())
    return phrases


def _slim(entry: dict[str, Any]) -> Any:
    """Keep only a region's phrase and a photo's id and regions while the file is read, to save memory."""
    return (entry.get("id"), entry["regions"]) if "regions" in entry else entry.get("phrase")


def _list(file: Path, hook: Any) -> list[Any]:
    try:
        entries = as_json.loads(file.read_text(encoding="utf-8-sig", errors="replace"), object_hook=hook)
    except ValueError as error:
        raise ConfigError(f"{file} is not a Visual Genome file: expected JSON with a list ({error})") from error
    if not isinstance(entries, list):
        kind = type(entries).__name__
        raise ConfigError(f"{file} is not a Visual Genome file: expected JSON with a list, got {kind}")
    return entries
