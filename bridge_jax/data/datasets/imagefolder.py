"""Photos of classes, for zero-shot classification: a folder for each class, or the tars of CLIP_benchmark.

A file of templates makes the prompts, with `{c}` or `{}` for the class. Without one there is a single prompt, "a photo
of a {c}.".
"""

import collections
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from bridge_jax.config import ConfigError
from bridge_jax.data import text
from bridge_jax.data.classes import PLACE, Classes
from bridge_jax.data.datasets import photo_builder, raw_files, tars
from bridge_jax.data.datasets.photo_builder import SPLITS, Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.datasets.raw_files import SUFFIXES

NAMES = "classnames.txt"
TEMPLATES = ("templates.txt", "zeroshot_classification_templates.txt")
TEMPLATE = f"a photo of a {PLACE}."

Members = list[tuple[Any, int]]  # the path of a picture, or its place in a tar, and the number of its class


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `CLASS/*.jpg`, or that in each of `train/`, `val/`, `test/`; or there `*.tar` with KEY.jpg, KEY.cls.

    Without a folder of a split all is `test`. The class of a folder has its name, with spaces for `_`. `classnames.txt`
    gives other names: a line `FOLDER<TAB>name` for each, or a name a line in the sorted order of the folders. Tars need
    it: KEY.cls has the number of a line, counted from 0. `templates.txt`, or CLIP_benchmark's
    `zeroshot_classification_templates.txt`, has a template a line.
    """

    name = "imagefolder"
    QUESTIONS = True
    DESCRIPTION = "Photos of classes, with the names of the classes and the templates of their prompts."
    HOMEPAGE = "https://github.com/LAION-AI/CLIP_benchmark"
    CITATION = ""

    def read(self, raw: Path) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder. Raises ConfigError for the first fault."""
        photos, self._classes = found(raw, photo_builder.at_once)
        return photos

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos, and call `refuse` for every fault. Raises ConfigError for another folder."""
        return found(raw, refuse)[0]

    def _download_and_prepare(self, *arguments: Any, **keywords: Any) -> None:
        super()._download_and_prepare(*arguments, **keywords)
        self._classes.save(Path(self.data_path))


def found(raw: Path, refuse: Refuse) -> tuple[dict[str, list[Photo]], Classes]:
    """Return split -> photos, each with the question of its class, and the classes."""
    templates = _templates(raw, refuse)
    if packed := tars.find(raw):
        names = _lines(raw / NAMES, refuse) if (raw / NAMES).is_file() else []
        if not names:
            raise ConfigError(f"--raw_dir: no {NAMES} with the names of the classes beside the tars in {raw}")
        members, faults = _in_tars(raw, packed, len(names), refuse)
    else:
        of_class = _in_folders(raw, refuse)
        folders = sorted({folder for parts in of_class.values() for folder in parts})
        names, faults = _names(raw, folders, refuse), []
        members = {
            split: [(path, number) for number, folder in enumerate(folders) for path in parts.get(folder, ())]
            for split, parts in of_class.items()
        }
    if len(names) < 2:
        refuse(f"--raw_dir: the classes of {raw} are {names}; expected two or more to choose from")
    for name, count in collections.Counter(names).items():
        if text.fault(name):
            refuse(f"--raw_dir: the name {name!r:.60} of a class in {raw} is no text; write one in {NAMES}")
        if count > 1:
            logging.warning("%d classes have the name %r: no prompt tells them apart", count, name)
    classes, ids = Classes(tuple(names), tuple(templates)), itertools.count()
    photos = {
        split: [
            Photo(path, image_id := next(ids), (), (classes.question(number, image_id),))
            for path, number in members[split]
        ]
        for split in SPLITS
        if members.get(split)
    }
    photo_builder.check(photos, raw, refuse)
    next(iter(photos.values()), []).extend(faults)
    return photos, classes


def _in_tars(raw: Path, packed: Sequence[Path], classes: int, refuse: Refuse) -> tuple[dict[str, Members], list[Photo]]:
    """Return split -> pictures of the tars, and samples that lack a part."""
    members: dict[str, Members] = collections.defaultdict(list)
    faults = []
    for tar in packed:
        split = "test" if tar.parent == raw else tar.parent.name
        if split not in SPLITS:
            refuse(f"--raw_dir: {tar} is in {split}/; expected tars in {raw} or in {', '.join(SPLITS)}")
        for sample in tars.read(tar, refuse, of="class"):
            if sample.path is None:
                faults.append(Photo(tar, 0, (), fault=sample.fault))
            elif (said := sample.captions[0]).isdecimal() and len(said) < 10 and int(said) < classes:
                members[split].append((sample.path, int(said)))
            else:
                refuse(
                    f"{sample.path}: its class is {said!r:.40}; expected a number from 0 to {classes - 1}, as "
                    f"{NAMES} has {classes} lines"
                )
    return members, faults


def _in_folders(raw: Path, refuse: Refuse) -> dict[str, dict[str, list[Path]]]:
    """Return split -> folder of a class -> its pictures."""
    inside = _folders(raw)
    splits = {folder.name: folder for folder in inside if folder.name in SPLITS and _folders(folder)}
    if splits and (odd := next((folder for folder in inside if folder.name not in splits), None)):
        refuse(f"--raw_dir: {odd} lies beside {', '.join(splits)}; put the folders of classes into those of splits")
    for folder in splits.values() or [raw]:
        if loose := next((path for path in sorted(folder.iterdir()) if _is_picture(path)), None):
            refuse(f"--raw_dir: {loose} lies in no folder of a class; move it into one")
    found = {
        split: {unicodedata.normalize("NFC", of.name): _pictures(of) for of in _folders(folder)}
        for split, folder in (splits or {"test": raw}).items()
    }
    counts: collections.Counter[str] = collections.Counter()
    for parts in found.values():
        counts.update({folder: len(pictures) for folder, pictures in parts.items()})
    if empty := next((folder for folder in counts if not counts[folder]), None):
        refuse(f"--raw_dir: the class {empty!r} has no picture in {raw}; add one, or delete its folder")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(filter(_is_picture, folder.rglob("*")))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _names(raw: Path, folders: Sequence[str], refuse: Refuse) -> list[str]:
    """Return the name of each class, from the file where there is one."""
    file, own = raw / NAMES, [" ".join(folder.replace("_", " ").split()) for folder in folders]
    if not file.is_file():
        return own
    lines = _lines(file, refuse)
    if not any("\t" in line for line in lines):
        if len(lines) == len(folders):
            return lines
        refuse(f"{file} has {len(lines)} names for {len(folders)} folders of classes; expected a name for each")
        return own
    named = {unicodedata.normalize("NFC", line.partition("\t")[0].strip()): line.partition("\t")[2] for line in lines}
    if len(named) < len(lines):
        refuse(f"{file}: two lines name one folder; leave one")
    if other := sorted(named.keys() ^ set(folders)):
        refuse(f"{file} and the folders differ, first in {other[0]!r}; expected a line FOLDER<TAB>name for each folder")
    return [named.get(folder, folder).strip() for folder in folders]


def _templates(raw: Path, refuse: Refuse) -> list[str]:
    """Return the templates, with PLACE for the class."""
    files = [raw / name for name in TEMPLATES if (raw / name).is_file()]
    if not files:
        logging.warning("no %s in %s: the prompt of a class is %r", TEMPLATES[0], raw, TEMPLATE)
        return [TEMPLATE]
    if len(files) > 1:
        refuse(f"--raw_dir: {' and '.join(TEMPLATES)} are both in {raw}; leave one")
    templates = [line.replace("{}", PLACE) for line in _lines(files[0], refuse)]
    for number, template in enumerate(templates, 1):
        if PLACE not in template or text.fault(template):
            refuse(f"{files[0]}: line {number} is {template!r}; expected a text with {PLACE} for the class")
    if not templates:
        refuse(f"{files[0]} has no template; write one, such as {TEMPLATE!r}, or delete the file")
    return templates


def _lines(file: Path, refuse: Refuse) -> list[str]:
    """Return the lines of a file, in which only the last may be empty."""
    numbered = [(number, line.strip()) for number, line in raw_files.lines(file)]
    if gap := next((place for place, (number, _) in enumerate(numbered, 1) if number != place), 0):
        refuse(f"{file}: line {gap} is empty; delete it")
    return [line for _, line in numbered]
