"""Read pictures with captions collected from the web: webdataset tars, or a folder with a list.

    *.tar            a picture and a text of the same name: 000001.jpg and 000001.txt (or 000001.json with `caption`)
    captions.jsonl   a line a caption: {"image": "path in the folder", "caption": "..."}
    captions.csv     the same with a header, or .tsv

A line of a list may also have a `wrong_caption`, which is false of the picture (config.mining.wrong_captions).
All of it is one split, `train`. Nothing is unpacked: a tar is read where it lies.
"""

import collections
import csv
import dataclasses
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Photo, Refuse

LISTS = ("captions.jsonl", "captions.csv", "captions.tsv")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class Member:
    """A picture in a tar; it stands in the place of a photo's path."""

    tar: Path
    inside: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.tar.name}/{self.inside}"

    @property
    def parent(self) -> Path:
        return self.tar.parent

    def read_bytes(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.tar}/{self.inside}"


class Builder(photo_builder.Builder, skip_registration=True):
    """Write the pictures of a collection. A subclass names it."""

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the pictures of all tars, or of the list. Raises ConfigError where there is neither."""
        tars, lists = sorted(raw.glob("*.tar")), [raw / name for name in LISTS if (raw / name).is_file()]
        if len(lists) + bool(tars) != 1:
            names = ", ".join(path.name for path in lists + tars[:1]) or "neither"
            raise ConfigError(f"--raw_dir: expected *.tar or one of {', '.join(LISTS)} in {raw}, found {names}")
        texts: dict[Any, list[str]] = collections.defaultdict(list)
        wrong: dict[Any, list[str]] = collections.defaultdict(list)
        for path, caption, false in read_tars(tars, refuse) if tars else read_list(lists[0], refuse):
            texts[path].append(caption.strip())
            if false.strip():
                wrong[path].append(false.strip())
        for path, captions in wrong.items():
            for both in sorted(set(captions) & set(texts[path])):
                refuse(f"{lists[0]}: {path.name} has {both!r} as a caption and as a wrong one; remove one of them")
        photos = [
            Photo(path, number, tuple(captions), wrong_captions=tuple(dict.fromkeys(wrong.get(path, ()))))
            for number, (path, captions) in enumerate(texts.items())
        ]
        photo_builder.check({"train": photos}, tars[0] if tars else lists[0], refuse)
        return {"train": photos}


def read_list(file: Path, refuse: Refuse) -> Iterator[tuple[Path, str, str]]:
    """Yield picture, caption and wrong caption of every line; the last is empty where there is none."""
    for number, row in enumerate(_rows(file, refuse), 1):
        image, caption, wrong = row.get("image"), row.get("caption"), row.get("wrong_caption") or ""
        if not isinstance(image, str) or not isinstance(caption, str):
            refuse(f"{file}, row {number}: expected `image` and `caption`, got {', '.join(map(str, row)) or 'nothing'}")
        elif not isinstance(wrong, str):
            refuse(f"{file}, row {number}: expected one text as `wrong_caption`, got {wrong!r}; give each its own line")
        elif photo_builder.leaves(image):
            refuse(f"{file}, row {number}: {image!r} leaves the folder; expected a path inside {file.parent}")
        else:
            yield file.parent / image, caption, wrong


def _rows(file: Path, refuse: Refuse) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        if file.suffix != ".jsonl":
            yield from csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            return
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                refuse(f"{file}, line {number}: expected JSON ({error})")
                continue
            yield row if isinstance(row, dict) else {}


def read_tars(tars: list[Path], refuse: Refuse) -> Iterator[tuple[Member, str, str]]:
    """Yield picture and caption of every sample, and no wrong caption."""
    for tar in tars:
        pictures: dict[str, Member] = {}
        captions: dict[str, str] = {}
        try:
            with tarfile.open(tar) as archive:
                for entry in archive:
                    if photo_builder.leaves(entry.name) or not (entry.isfile() or entry.isdir()):
                        refuse(f"{tar}: {entry.name!r} is a link or leaves the archive; expected files inside it")
                    elif entry.isfile():
                        _sort(tar, archive, entry, pictures, captions)
        except (tarfile.TarError, EOFError, OSError) as error:
            refuse(f"{tar}: not a complete tar archive ({error}); fetch it again")
        for key in sorted(pictures.keys() ^ captions.keys()):
            refuse(f"{tar}: sample {key!r} has no {'caption' if key in pictures else 'picture'}")
        yield from ((pictures[key], captions[key], "") for key in pictures.keys() & captions.keys())


def _sort(
    tar: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo, pictures: dict[str, Member], captions: dict[str, str]
) -> None:
    path = PurePosixPath(entry.name)
    key, kind = str(path.parent / path.name.partition(".")[0]), path.suffix.lower()
    if kind in _PICTURES:
        pictures[key] = Member(tar, entry.name, entry.offset_data, entry.size)
    elif kind in (".txt", ".json"):
        file = archive.extractfile(entry)
        text = file.read().decode(errors="replace") if file else ""
        if kind == ".txt":
            captions[key] = text
        else:
            captions.setdefault(key, _json_caption(text))


def _json_caption(text: str) -> str:
    try:
        return str(json.loads(text)["caption"])
    except (ValueError, KeyError, TypeError):
        return ""
