"""Read a list of pictures with captions: CSV, TSV, JSON lines, and the lists that come with Flickr8k and Flickr30k.

    for line in read(Path("captions.csv"), Columns()): line.number, line.image, line.captions, line.fault

A list is UTF-8, with or without a byte order mark. Its first line names the columns, in any case; `File Name` is
`file_name`. The commas of a CSV may be semicolons, bars or tabs. Fields between commas or semicolons may stand in
quotes; tabs and bars know no quotes. JSON lines may hold several captions as a list. Files named `*.token` or
`*.token.txt` have no header: `0.jpg#0`, a tab, a caption.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets.raw_files import Packed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".token", ".token.txt")
IMAGE = ("image", "image_name", "image_path", "image_file", "file_name", "filename", "file", "path", "photo")
CAPTION = ("caption", "captions", "comment", "sentence", "text", "description")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NEXT_ROW = re.compile(r"[\r\n][^\r\n,;]+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf])[\"']?\s*[,;]", re.IGNORECASE)


class Columns(NamedTuple):
    """The names of the columns to read; an empty one is found by its usual names."""

    image: str = ""
    caption: str = ""
    split: str = ""


class Line(NamedTuple):
    """A line of a list: its number from 1, the picture and its captions; or the `fault` for which it is skipped.

    `wrong` is a caption that is false of the picture, or empty.
    """

    number: int
    image: str | Packed = ""  # a name, or the picture itself
    captions: tuple[str, ...] = ()
    wrong: str = ""
    split: str = ""
    fault: str = ""


_Row = tuple[int, Mapping[str, Any] | str]  # the number of a line, and its fields by name or its fault


def read(file: Path, columns: Columns) -> Iterator[Line]:
    """Yield the lines of a list. Raises ConfigError where it has other columns or quotes swallow its rows."""
    with file.open("rb") as start:
        if start.read(2) in _UTF16:
            raise ConfigError(f"{file} is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)")
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        if file.name.endswith((".token", ".token.txt")):
            rows = _tokens(lines)
        elif file.suffix in (".jsonl", ".jsonlines"):
            rows = _json_rows(lines)
        else:
            rows = _table(file, lines, columns)
        for number, row in rows:
            yield Line(number, fault=row) if isinstance(row, str) else line_of(number, row, columns)


def line_of(number: int, row: Mapping[str, Any], columns: Columns) -> Line:
    """Return the line that a row stands for. `row` holds its fields by their `plain` names."""
    image, caption = row.get(_name(row, columns.image, IMAGE)), row.get(_name(row, columns.caption, CAPTION))
    captions = caption if isinstance(caption, list) else [caption]
    image = image.strip() if isinstance(image, str) else image
    if not image or not isinstance(image, str | Packed):
        return Line(number, fault=f"expected the name of a picture, got {image!r} among {', '.join(row) or 'nothing'}")
    texts = tuple(one.strip() for one in captions if isinstance(one, str))
    if not captions or len(texts) < len(captions):
        return Line(number, fault=f"expected a caption of {image}, got {caption!r} among {', '.join(row)}")
    wrong, split = row.get("wrong_caption") or "", row.get(plain(columns.split) or "split") or ""
    if not isinstance(wrong, str):
        return Line(number, fault=f"expected one text as `wrong_caption`, got {wrong!r}; give each its own line")
    return Line(number, image, texts, wrong.strip(), str(split).strip())


def plain(name: str) -> str:
    """Return the name of a column without capitals, and with an underscore for spaces."""
    return "_".join(name.lower().split())


def complete(names: Iterable[str], columns: Columns) -> bool:
    """Return whether a list with columns of these `plain` names has one for the picture and one for the caption."""
    found = tuple(names)
    return _name(found, columns.image, IMAGE) in found and _name(found, columns.caption, CAPTION) in found


def incomplete(where: str, got: str, columns: Columns) -> ConfigError:
    """Return the error of a list that lacks a column."""
    return ConfigError(
        f"{where}: expected a column for the picture ({columns.image or ', '.join(IMAGE)}) and one for the caption "
        f"({columns.caption or ', '.join(CAPTION)}), got {got[:200]!r}; rename them there, or name yours with "
        "--image_column and --caption_column"
    )


def _name(names: Iterable[str], wanted: str, usual: Sequence[str]) -> str:
    """Return the name of a column: `wanted`, or the first of the usual ones that is there."""
    return plain(wanted) if wanted else next((name for name in usual if name in names), "")


def _json_rows(lines: Iterable[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = as_json.loads(line)
            except ValueError as error:
                yield number, f"expected JSON ({error})"
                continue
            named = isinstance(row, dict)
            yield (
                number,
                {plain(key): row[key] for key in row} if named else f"expected an object, got {row!r}",
            )


def _tokens(lines: Iterable[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        image, tab, caption = line.partition("\t")
        if tab:
            yield number, {"image": image.partition("#")[0], "caption": caption}
        elif line.strip():
            yield number, "expected a name, # and a number, a tab and a caption"


def _table(file: Path, lines: Iterator[str], columns: Columns) -> Iterator[_Row]:
    delimiter, names = _header(file, next(lines, ""), columns)
    cells_of_rows = _quoted(file, lines, delimiter) if delimiter in ",;" else _plain(lines, delimiter)
    for number, cells in cells_of_rows:
        if isinstance(cells, str):
            yield number, cells
        elif any(cell.strip() for cell in cells[len(names) :]):
            yield number, f"{len(cells)} fields under {len(names)} columns; a field with {delimiter!r} needs quotes"
        elif any(cell.strip() for cell in cells):
            yield number, dict(zip(names, cells, strict=False))


def _header(file: Path, line: str, columns: Columns) -> tuple[str, list[str]]:
    """Return the delimiter by which a header has both columns, and the names of all. Raises ConfigError."""
    for delimiter in "\t" if file.suffix == ".tsv" else ",;|\t":
        names = [plain(name) for name in next(csv.reader([line], delimiter=delimiter), [])]
        if complete(names, columns):
            return delimiter, names
    raise incomplete(f"{file}, line 1", line.strip(), columns)


def _plain(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, 2):
        yield number, line.rstrip("\r\n").split(delimiter)


def _quoted(file: Path, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of the line on which a row begins, and its fields or its fault.

    Raises ConfigError, naming the line on which a quote opens, where it has no end or other rows within.
    """
    csv.field_size_limit(2**31 - 1)  # a caption too long is a fault of its own
    row: list[str] = []
    reader = csv.reader(_kept(lines, row), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 2
        row.clear()
        try:
            cells = next(reader)
            swallows = any(_NEXT_ROW.search(cell) for cell in cells) if len(row) > 1 else False
        except StopIteration:
            return
        except csv.Error as error:
            if len(row) == 1 and "end of data" not in str(error):
                yield number, f"a quote within a field ({error}); write it twice"
                continue
            swallows = True
        if swallows:
            raise ConfigError(
                f"{file}, line {number + _opens(row)}: a quote opens here and swallows the next rows; close it, or "
                "write it twice where it is part of a caption"
            )
        yield number, cells


def _kept(lines: Iterator[str], kept: list[str]) -> Iterator[str]:
    for line in lines:
        kept.append(line)
        yield line


def _opens(row: Sequence[str]) -> int:
    """Return which line of a row holds the last quote that opens."""
    inside, at = False, 0
    for place, line in enumerate(row):
        if line.count('"') % 2:
            inside = not inside
            at = place if inside else at
    return at
