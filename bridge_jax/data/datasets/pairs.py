"""Read pictures with captions collected from the web: webdataset tars (`tars`), or a folder with a list (`lists`).

    *.tar            a picture and a text of the same name: 000001.jpg and 000001.txt (or 000001.json with `caption`)
    captions.jsonl   a line a picture: {"image": "path in the folder", "caption": "..."}
    captions.csv     the same with a header, or .tsv

A line of a list may also have a `wrong_caption`, which is false of the picture (`wrong_captions` of a stage).
All of it is one split, `train`. Nothing is unpacked. A line or a sample that cannot be used is listed and skipped.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import lists, photo_builder, raw_files, tars
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.datasets.photo_builder import Photo, Refuse

LISTS = ("captions.jsonl", "captions.csv", "captions.tsv", "captions.txt", "results.csv")
FOLDERS = ("", "images", "Images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")  # beside a list


class Pair(NamedTuple):
    """A picture with captions, or, where there is a fault, the file that has it."""

    path: Any  # Path, or a Member of a tar
    captions: tuple[str, ...] = ()
    wrong: str = ""
    split: str = ""
    fault: str = ""


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the pictures of a collection. A subclass names it."""

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the pictures of all tars, or of the list. Raises ConfigError where there is neither."""
        source, pairs = find(raw, Columns(), refuse)
        photos = {"train": [photo for _, photo in photos_of(pairs, source, refuse)]}
        photo_builder.check(photos, source, refuse)
        return photos


def sources(raw: Path) -> tuple[list[Path], list[Path]]:
    """Return the tars and the lists of a folder; of the lists only those of known names, where there are any."""
    named = [raw / name for name in LISTS if (raw / name).is_file()]
    return tars.find(raw), named or sorted(path for path in raw.iterdir() if path.name.endswith(lists.SUFFIXES))


def find(raw: Path, columns: Columns, refuse: Refuse) -> tuple[Path, Iterator[Pair]]:
    """Return the list or the first tar, and the pairs of all. Raises ConfigError where there is neither or both."""
    found, listed = sources(raw)
    if len(listed) + bool(found) != 1:
        names = ", ".join(path.name for path in listed + found[:1]) or "neither"
        raise ConfigError(f"--raw_dir: expected *.tar or one of {', '.join(LISTS)} in {raw}, found {names}")
    return (listed or found)[0], _packed(found, refuse) if found else _listed(listed[0], columns, refuse)


def _packed(found: Iterable[Path], refuse: Refuse) -> Iterator[Pair]:
    for tar in found:
        for sample in tars.read(tar, refuse):
            yield Pair(sample.path or tar, sample.captions, fault=sample.fault)


def _listed(file: Path, columns: Columns, refuse: Refuse) -> Iterator[Pair]:
    folder = None
    for line in lists.read(file, columns):
        if line.fault:
            yield Pair(file, fault=f"line {line.number}: {line.fault}")
        elif photo_builder.leaves(line.image):
            refuse(
                f"{file}, line {line.number}: {line.image!r} leaves the folder; expected a path inside {file.parent}"
            )
        else:
            if folder is None:  # the first picture that is there says where the others are
                places = [file.parent / name for name in FOLDERS]
                folder = next((place for place in places if (place / line.image).exists()), None)
            path = raw_files.located(folder or file.parent, line.image, refuse)
            yield Pair(path, line.captions, line.wrong, line.split)


def photos_of(pairs: Iterable[Pair], source: Path, refuse: Refuse) -> Iterator[tuple[str, Photo]]:
    """Yield split and photo, a photo for all pairs of a picture, in the order in which the pictures come first.

    Calls `refuse` where all pairs have a fault, a picture is in two splits, or a caption is true and wrong of it.
    """
    faults: list[Pair] = []
    of_picture: dict[Any, list[Pair]] = {}
    for pair in pairs:
        if pair.fault:
            faults.append(pair)
        else:
            of_picture.setdefault(pair.path, []).append(pair)
    if faults and not of_picture:
        refuse(f"{faults[0].path}, {faults[0].fault}")
    for number, (path, said) in enumerate(of_picture.items()):
        captions = tuple(caption for pair in said for caption in pair.captions)
        wrong = tuple(dict.fromkeys(pair.wrong for pair in said if pair.wrong))
        for both in sorted(set(captions) & set(wrong)):
            refuse(f"{source}: {path.name} has {both!r} as a caption and as a wrong one; remove one of them")
        if len(splits := sorted({pair.split for pair in said})) > 1:
            refuse(f"{source}: {path.name} is in the splits {' and '.join(map(repr, splits))}; leave it in one")
        yield splits[0], Photo(path, number, captions, wrong_captions=wrong)
    for pair in faults:
        yield "", Photo(pair.path, -1, (), fault=pair.fault)
