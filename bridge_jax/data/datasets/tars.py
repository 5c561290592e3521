"""Read webdataset tars where they lie: a picture and a text of the same name are a sample.

000001.jpg goes with 000001.txt, or with 000001.json and its `caption`, a text or several. Samples come in the order of
the archive. Of two pictures, or two texts, of one name the first counts; the other is a fault. Where classes are read,
000001.cls is the text.
"""

import dataclasses
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.raw_files import SUFFIXES, Packed

_TEXTS = {"caption": (".txt", ".json"), "class": (".cls",)}


@dataclasses.dataclass(frozen=True)
class Member(Packed):
    """A picture in a tar."""

    offset: int
    size: int

    def read_bytes(self) -> bytes:
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.offset)
            return file.read(self.size)


class Sample(NamedTuple):
    """A picture with its captions, or the fault for which a sample is skipped."""

    path: Member | None
    captions: tuple[str, ...] = ()
    fault: str = ""
    key: str = ""  # its name, which no other sample of the tar has


class _Entry(tarfile.TarInfo):
    """An entry of a tar. Plain files, which are nearly all, are read three times as fast as `tarfile` reads them."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        size, checksum, name = buf[124:135], buf[148:154], buf[:100].rstrip(b"\0")
        plain = len(buf) == 512 and buf[156:157] in b"0\0" and size.isdigit() and checksum.isdigit() and not buf[345]
        if not plain or not name.isascii() or b"\0" in name or name.endswith(b"/"):
            return super().frombuf(buf, encoding, errors)
        try:
            whole = sum(buf) - sum(buf[148:156]) + 256 == int(checksum, 8)
            entry = cls(name.decode())
            entry.size = int(size, 8)
        except ValueError:  # 8 and 9 are digits, but not of such a number
            whole = False
        return entry if whole else super().frombuf(buf, encoding, errors)


class _Parts(NamedTuple):
    pictures: list[Member]
    texts: list[str]
    told: list[str]  # the contents of its .json


def find(raw: Path) -> list[Path]:
    """Return the tars of a folder, or of its folders. Raises ConfigError where they are compressed."""
    tars = sorted(raw.glob("*.tar")) or sorted(raw.glob("*/*.tar"))
    if not tars and (packed := sorted(path for kind in ("gz", "bz2", "xz") for path in raw.glob(f"*.tar.{kind}"))):
        raise ConfigError(
            f"--raw_dir: {packed[0]} is compressed, and pictures are read where they lie; unpack it to .tar"
        )
    return tars


def read(tar: Path, refuse: Refuse, of: str = "caption") -> Iterator[Sample]:
    """Yield the samples of a tar; call `refuse` where it is not whole, or a name or a link leaves it.

    `of` says what the texts are: "caption" or "class".
    """
    samples: dict[str, _Parts] = {}
    try:
        if tar.stat().st_size % tarfile.BLOCKSIZE:  # tarfile takes a torn header for the end
            raise tarfile.ReadError("it ends within a block")
        with tarfile.open(tar, "r:", tarinfo=_Entry) as archive:
            for entry in archive:
                odd = not (entry.isfile() or entry.isdir()) or entry.issparse()
                if photo_builder.leaves(entry.name) or odd:
                    refuse(f"{tar}: {entry.name!r} is a link or leaves the archive; expected files inside it")
                elif entry.isfile():
                    _sort(tar, archive, entry, samples, _TEXTS[of])
                vars(archive)["members"].clear()  # it would keep every entry
    except (tarfile.TarError, EOFError, OSError) as error:
        refuse(f"{tar}: not a complete tar archive ({error}); fetch it again, or unpack it if it is compressed")
    for key, parts in samples.items():
        yield from _samples(key, parts, of)


def _sort(
    tar: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo, samples: dict[str, _Parts], texts: Sequence[str]
) -> None:
    inside = unicodedata.normalize("NFC", entry.name).removeprefix("./")
    folder, _, name = inside.rpartition("/")
    stem, dot, _ = name.partition(".")
    kind = f".{name.rpartition('.')[2].lower()}"
    if not stem or not dot or kind not in (*SUFFIXES, *texts):
        return
    parts = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Parts([], [], []))
    if kind in SUFFIXES:
        parts.pictures.append(Member(tar, entry.name, entry.offset_data, entry.size))
    elif (file := archive.extractfile(entry)) is not None:
        (parts.told if kind == ".json" else parts.texts).append(file.read().decode(errors="replace"))


def _samples(key: str, parts: _Parts, of: str) -> Iterator[Sample]:
    if not parts.pictures:
        yield Sample(None, fault=f"sample {key!r} has no picture", key=key)
        return
    captions, reason = _captions(parts)
    if captions:
        yield Sample(parts.pictures[0], captions, key=key)
    else:
        yield Sample(None, fault=f"sample {key!r} has no {of}{reason}", key=key)
    if max(map(len, parts)) > 1:
        names = ", ".join(picture.inside for picture in parts.pictures)
        fault = f"sample {key!r} is there twice ({names}); the first is taken, names must be unique"
        yield Sample(None, fault=fault, key=key)


def _captions(parts: _Parts) -> tuple[tuple[str, ...], str]:
    """Return the captions of a sample, or none and the reason."""
    if parts.texts or not parts.told:
        return tuple(text.strip() for text in parts.texts[:1]), ""
    try:
        told = as_json.loads(parts.told[0])["caption"]
    except (ValueError, KeyError, TypeError):
        return (), ": expected JSON with `caption`"
    captions: Sequence[Any] = told if isinstance(told, list) else [told]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        return (), f": `caption` is {told!r}"
    return tuple(caption.strip() for caption in captions), ""
