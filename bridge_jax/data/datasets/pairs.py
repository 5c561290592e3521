"""Read pictures with captions collected from the web: webdataset tars, a folder with a list, or tables of both.

    *.tar            a picture and a text of the same name: 000001.jpg and 000001.txt (or 000001.json with `caption`)
    captions.jsonl   a line a picture: {"image": "path in the folder", "caption": "..."}
    captions.csv     the same with a header, or .tsv
    *.parquet        the same with paths, or with the pictures inside; or *.arrow (`tables`)

A line may also have a `wrong_caption`, which is false of the picture (`wrong_captions` of a stage).
All of it is one split, `train`. Nothing is unpacked. A line or a sample that cannot be used is listed and skipped.

Tars are prepared one by one in parallel (`tar_preparation`). A list stays with the writer of tfds: it names all its
pictures in one place, so there are no sources to go on from, and those that people write fit into memory.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import lists, photo_builder, raw_files, tables, tars
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.datasets.photo_builder import Refuse, Tars
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.datasets.raw_files import Packed

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # as people call them
LISTS = ("captions.jsonl", "captions.csv", "captions.tsv", "captions.txt", "results.csv")
FOLDERS = ("", "images", "Images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")  # beside a list


class Pair(NamedTuple):
    """A picture with captions, or, where there is a fault, the file that has it."""

    path: Any  # Path, or Packed
    captions: tuple[str, ...] = ()
    wrong: str = ""
    split: str = ""
    fault: str = ""


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the pictures of a collection. A subclass names it."""

    FILTERED = True

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the pictures of all tars, or of the list. Raises ConfigError where there is neither."""
        source, pairs = find(raw, Columns(), refuse)
        placed = list(photos_of(pairs, source, refuse))
        if others := sorted({split for split, _ in placed if SPLITS.get(split.lower(), split or "train") != "train"}):
            refuse(
                f"{source}: expected pictures to train on, found the split {others[0]!r}; leave it out, or prepare all "
                "with --dataset=folder"
            )
        photos = {"train": [photo for _, photo in placed]}
        photo_builder.check(photos, source, refuse)
        return photos

    @classmethod
    def tars(cls, raw: Path) -> Tars | None:
        """Return the tars of a raw folder, or None. Raises ConfigError where one is named as another split."""
        if (splits := packed(raw)) is None:
            return None
        if others := sorted(name for name, split in splits.items() if split not in ("", "train")):
            raise ConfigError(
                f"{raw / others[0]}: expected pictures to train on, found the split {splits[others[0]]!r}; leave it "
                "out, or prepare all with --dataset=folder"
            )
        return Tars(dict.fromkeys(splits, "train"), 0.0, 0.0)


def sources(raw: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the tars, the lists and the tables of a folder.

    Of the lists only those of known names count, where there are any. A table beside a tar of its name describes it.
    """
    found = tars.find(raw)
    named = [raw / name for name in LISTS if (raw / name).is_file()]
    listed = named or next(filter(None, (sorted(filter(_is_list, raw.glob(at))) for at in ("*", "*/*"))), [])
    described = {path.with_suffix("") for path in found}
    return found, listed, [path for path in tables.find(raw) if path.with_suffix("") not in described]


def _is_list(path: Path) -> bool:
    return path.name.endswith(lists.SUFFIXES)


def find(raw: Path, columns: Columns, refuse: Refuse, chosen: str = "") -> tuple[Path, Iterator[Pair]]:
    """Return the first file that tells of pictures, and the pairs of all such files, or of the list `chosen` alone.

    Several lists or tables whose names, or whose folders' names, begin with a split hold that split each. Raises
    ConfigError where files of several kinds, several lists of no split, or none are there.
    """
    if chosen:
        if not (raw / chosen).is_file():
            raise ConfigError(f"--list: there is no file {raw / chosen}; give a path within {raw}")
        return raw / chosen, _listed(raw / chosen, raw, columns, refuse)
    every, by_file = _kind(raw)
    splits = {path: _split_of(raw, path) for path in every} if by_file else dict.fromkeys(every, "")
    if every[0].suffix == ".tar":
        return every[0], _packed(splits, refuse)
    return every[0], (
        pair._replace(split=pair.split or splits[path])
        for path in every
        for pair in _listed(path, raw, columns, refuse)
    )


def _kind(raw: Path) -> tuple[list[Path], bool]:
    """Return the files that tell of pictures, and whether their names say the splits. Raises ConfigError (`find`)."""
    found, listed, stored = sources(raw)
    kinds = [kind for kind in (found, listed, stored) if kind]
    every = [path for kind in kinds for path in kind]
    splits = {_split_of(raw, path) for path in every}
    by_file = "" not in splits and len(splits) > 1
    if len(kinds) != 1 or (len(every) > 1 and kinds[0] is listed and not by_file):
        names = ", ".join(str(path.relative_to(raw)) for path in every[:4]) or "none of them"
        raise ConfigError(
            f"--raw_dir: expected *.tar, *.parquet or one of {', '.join(LISTS)} in {raw}, found {names}; several lists "
            "are read where each is named by its split, such as train.csv and val.csv"
        )
    return every, by_file


def packed(raw: Path) -> dict[str, str] | None:
    """Return the tars of a folder, path within it -> split by its name (empty: none), or None where it has no tars.

    Raises ConfigError where it has other lists too.
    """
    if not tars.find(raw):
        return None
    every, by_file = _kind(raw)
    return {path.relative_to(raw).as_posix(): _split_of(raw, path) if by_file else "" for path in every}


def _split_of(raw: Path, path: Path) -> str:
    """Return the split by which a file's name begins, or that of its folder within `raw`, or nothing."""
    words = (re.match("[a-z]*", name.lower()) for name in reversed(path.relative_to(raw).parts))
    return next((SPLITS[word[0]] for word in words if word and word[0] in SPLITS), "")


def _packed(splits: Mapping[Path, str], refuse: Refuse) -> Iterator[Pair]:
    for tar, split in splits.items():
        for sample in tars.read(tar, refuse):
            yield Pair(sample.path or tar, sample.captions, split=split, fault=sample.fault)


def _listed(file: Path, raw: Path, columns: Columns, refuse: Refuse) -> Iterator[Pair]:
    folder = None
    for line in (tables if file.suffix in tables.SUFFIXES else lists).read(file, columns):
        if line.fault:
            yield Pair(file, fault=f"line {line.number}: {line.fault}")
        elif isinstance(line.image, Packed):
            yield Pair(line.image, line.captions, line.wrong, line.split)
        elif photo_builder.leaves(line.image):
            refuse(
                f"{file}, line {line.number}: {line.image!r} leaves the folder; expected a path inside {file.parent}"
            )
        else:
            if folder is None:  # the first picture that is there says where the others are
                places = [place / name for place in dict.fromkeys((file.parent, raw)) for name in FOLDERS]
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
