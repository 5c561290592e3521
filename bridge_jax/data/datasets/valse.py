"""VALSE: is a caption told from a foil that differs by one linguistic phenomenon, such as existence or counting?"""

from collections.abc import Iterator
from pathlib import Path

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import compositionality, raw_files
from bridge_jax.data.datasets.compositionality import Item
from bridge_jax.data.datasets.photo_builder import Refuse

VOTES = 2  # of the three annotators, who chose the caption and not the foil: the valid items, as the authors say


class Builder(compositionality.Builder, skip_registration=True):
    """Raw folder: the official `valse/*.json`, and the photos of all the data sets they name anywhere in `images/`.

    The kind of an item is the name of its file, such as `existence`.
    """

    name = "valse"
    DESCRIPTION = "VALSE: captions of photos of several data sets beside foils of one linguistic phenomenon each."
    HOMEPAGE = "https://github.com/Heidelberg-NLP/VALSE"
    CITATION = (
        "Parcalabescu et al.: VALSE: A Task-Independent Benchmark for Vision and Language Models Centered on "
        "Linguistic Phenomena. ACL, 2022."
    )

    @classmethod
    def items(cls, raw: Path, refuse: Refuse) -> Iterator[Item]:
        files = compositionality.files(raw / cls.name, "*.json", cls.HOMEPAGE)
        photos = _photos(compositionality.folder_of(raw, "images", "the photos of all its data sets"))
        for file in files:
            for number, item in compositionality.rows(file, "VALSE"):
                try:
                    votes, name = int(item["mturk"]["caption"]), str(item["image_file"])
                    captions = ((item["caption"].strip(), True), (item["foil"].strip(), False))
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    refuse(f"{file}: item {number}: expected image_file, caption, foil, mturk.caption ({error!r})")
                    continue
                if votes >= VOTES:
                    photo = photos.get(Path(name).name, raw / "images" / Path(name).name)
                    yield Item(file, file.stem, f"{file.stem}/{number}", ((photo, captions),))


def _photos(folder: Path) -> dict[str, Path]:
    """Return the photos of a folder and all in it, by name. Raises ConfigError where two have one name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in raw_files.SUFFIXES and found.setdefault(path.name, path) != path:
            raise ConfigError(
                f"{path} and {found[path.name]} have one name, by which VALSE knows a photo; remove the wrong one"
            )
    return found
