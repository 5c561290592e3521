"""Read tables of pictures with captions: Parquet, and data sets that Hugging Face's `datasets` saved to disk (Arrow).

    for line in read(Path("train-00000-of-00001.parquet"), Columns()): line.number, line.image, line.captions

A picture is a path, as in a list, or lies in the table: its bytes, or Hugging Face's `image` with `bytes` and `path`.
Only the other columns are read to list the rows; a picture is read when it is its turn, a row group at a time.
"""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import lists
from bridge_jax.data.datasets.lists import Columns, Line
from bridge_jax.data.datasets.raw_files import Packed

SUFFIXES = (".parquet", ".arrow")
_READING = threading.Lock()  # several threads ask for pictures of one row group; one of them reads it


@dataclasses.dataclass(frozen=True)
class Cell(Packed):
    """A picture in a table, by its own name or the number of its row. Arrow files count as one row group."""

    group: int
    row: int  # of the row group
    column: str

    def read_bytes(self) -> bytes:
        try:
            with _READING:
                pictures = _pictures(self.file, self.group, self.column)
            value = pictures[self.row].as_py()
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"the table cannot be read ({_in_a_line(error)})") from error
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(encoded, bytes):
            raise OSError("the table has no picture in this row, at most a path; save it with the pictures inside")
        return encoded


def find(raw: Path) -> list[Path]:
    """Return the tables of a folder, or of its folders. Where Hugging Face says which files count, only those do."""
    for pattern in ("*", "*/*"):
        found = sorted(path for path in raw.glob(pattern) if path.suffix in SUFFIXES and _counts(path))
        if found:
            return found
    return []


def _counts(path: Path) -> bool:
    """Return whether a file is of the data set, and not one that `datasets` cached beside it."""
    state = path.with_name("state.json")
    if path.suffix != ".arrow" or not state.is_file():
        return True
    try:
        return path.name in [
            file["filename"] for file in as_json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{state}: expected the files of a saved data set ({error!r}); save it again") from error


def read(file: Path, columns: Columns) -> Iterator[Line]:
    """Yield the rows of a table, as of a list. Raises ConfigError where it has other columns or is not whole."""
    with _whole(file):
        names = _schema(_open(file)).names
    if not lists.complete(map(lists.plain, names), columns):
        raise lists.incomplete(str(file), ", ".join(names), columns)
    for number, row in enumerate(rows(file), 1):
        yield lists.line_of(number, row, columns)


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table by column, with a Cell for each picture. Raises ConfigError where it is not whole."""
    with _whole(file):
        table, number = _open(file), 0
        for group in range(table.num_row_groups if isinstance(table, parquet.ParquetFile) else 1):
            for row in _rows(file, group, _schema(table), number):
                number += 1
                yield row


def _schema(table: parquet.ParquetFile | pa.Table) -> pa.Schema:
    return table.schema_arrow if isinstance(table, parquet.ParquetFile) else table.schema


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Raise ConfigError where reading the table fails."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{file}: not a whole table ({_in_a_line(error)}); fetch it again") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _rows(file: Path, group: int, schema: pa.Schema, before: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group, which so many are `before`, with a Cell for each picture that lies in them."""
    named = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0
    ]
    inside = named + [field.name for field in schema if _is_bytes(field.type)]
    others = [name for name in schema.names if name not in inside]
    table = _read(file, group, others, named)
    paths = {name: table.select([name]).flatten().column(f"{name}.path").to_pylist() for name in named}
    for row, values in enumerate(table.select(others).to_pylist()):
        for name in inside:
            own = (paths[name][row] if name in paths else None) or f"row {before + row + 1}"
            values[name] = Cell(file, Path(own).name, group, row, name)
        yield {lists.plain(name): values[name] for name in schema.names}


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@functools.lru_cache(maxsize=2)  # the threads that read ahead may be in the next row group already
def _pictures(file: Path, group: int, column: str) -> pa.ChunkedArray:
    return _read(file, group, [column]).column(column)


def _read(file: Path, group: int, names: Sequence[str], named: Sequence[str] = ()) -> pa.Table:
    """Return columns of a row group, and of the `named` ones as little as has the path."""
    table = _open(file)
    if isinstance(table, parquet.ParquetFile):
        return table.read_row_group(group, columns=[*names, *(f"{name}.path" for name in named)])
    return table.select([*names, *named])


@functools.lru_cache(maxsize=2)
def _open(file: Path) -> parquet.ParquetFile | pa.Table:
    """Return a table that lies on disk. `datasets` writes Arrow as a stream, others as a file."""
    if file.suffix == ".parquet":
        return parquet.ParquetFile(file)
    mapped = pa.memory_map(str(file))
    try:
        return ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return ipc.open_file(mapped).read_all()
