"""The index of a tar: a parquet table with a row for each sample, so that any part of it is read without the rest.

    write(Tar("raw", "0/00000.tar", "out/index/0/00000.tar.parquet"))       reads the tar once, from front to back
    for sample in read(index, tar, rows): sample.path, sample.captions

A row has where the picture lies (`inside`, `offset`, `size`), its captions, the SHA-256 of its bytes and a number made
of its name; or the `fault` for which the sample is left out. Texts are stored as bytes: some are no UTF-8.
Where filters ask for it (`Tar.look`), a row has the size of the picture too, and its perceptual hash.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bridge_jax.config import ConfigError
from bridge_jax.data import filters
from bridge_jax.data.datasets import photo_builder, tars
from bridge_jax.data.datasets.tars import Member

_ROWS = 4096  # of a row group, which is read as a whole
_BYTES = b"bytes"  # key of the size of the tar in the metadata of the table
_LOOK = b"look"  # key of `Tar.look` there
_SCHEMA = pa.schema(
    [
        ("inside", pa.binary()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("captions", pa.list_(pa.binary())),
        ("sha256", pa.binary(32)),
        ("number", pa.uint64()),
        ("fault", pa.binary()),
    ]
)
_LOOKS = {"width": pa.int32(), "height": pa.int32(), "hash": pa.uint64()}  # of a table with `Tar.look`


class Tar(NamedTuple):
    """A tar to index: the raw folder, its path in there, and the file of its index."""

    raw: str
    name: str
    index: str
    look: str = ""  # what filters ask of each picture (`Filters.look`)


@dataclasses.dataclass(frozen=True)
class Indexed(Member):
    """A picture in a tar that was indexed."""

    sha256: bytes

    def read_bytes(self) -> bytes:
        """Return the encoded picture. Raises ConfigError where it is another than was indexed."""
        encoded = super().read_bytes()
        if hashlib.sha256(encoded).digest() != self.sha256:
            raise ConfigError(
                f"{self} has changed since the preparation began: put the tar back, or delete the prepared folder to "
                "prepare it anew"
            )
        return encoded


class Sample(NamedTuple):
    """A sample of an index."""

    path: Any  # Indexed, in the place of a path
    captions: tuple[str, ...]


class Summary(NamedTuple):
    """The samples of an index that can be used, by the number of their row, and the faults of the others."""

    rows: np.ndarray  # int64 [samples]
    sha256: list[bytes]
    numbers: np.ndarray  # uint64 [samples]
    faults: list[str]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file that takes its place when it is whole, and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def write(tar: Tar) -> None:
    """Write the index of a tar. Raises ConfigError where it is not whole, or a name in it leads out of it."""
    path = Path(tar.raw, tar.name)
    samples = tars.read(path, photo_builder.at_once)
    try:
        about = {_BYTES: str(path.stat().st_size)}
        schema = _SCHEMA.with_metadata(about)
        if tar.look:
            schema = pa.schema([*_SCHEMA, *_LOOKS.items()], about | {_LOOK: tar.look})
        with (
            path.open("rb") as file,
            whole(Path(tar.index)) as fresh,
            parquet.ParquetWriter(fresh, schema, compression="zstd") as table,
        ):
            while rows := [_row(tar, sample, file) for sample in itertools.islice(samples, _ROWS)]:
                table.write_table(pa.Table.from_pylist(rows, schema), _ROWS)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; fetch it again") from error


def _row(tar: Tar, sample: tars.Sample, file: BinaryIO) -> dict[str, object]:
    if sample.path is None:
        return {"fault": _encoded(sample.fault)}
    file.seek(sample.path.offset)
    encoded = file.read(sample.path.size)
    name = hashlib.sha256(_encoded(f"{tar.name}/{sample.key}")).digest()
    return {
        "inside": _encoded(sample.path.inside),
        "offset": sample.path.offset,
        "size": sample.path.size,
        "captions": [_encoded(caption) for caption in sample.captions],
        "sha256": hashlib.sha256(encoded).digest(),
        "number": int.from_bytes(name[:8], "big"),
        **(filters.look(encoded, tar.look)._asdict() if tar.look else {}),
    }


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogatepass")


def size(index: Path) -> int:
    """Return the size in bytes that the tar had when it was indexed."""
    return int(parquet.read_schema(index).metadata[_BYTES])


def look(index: Path) -> str:
    """Return what the index knows of each picture (`Tar.look`)."""
    return parquet.read_schema(index).metadata.get(_LOOK, b"").decode()


def photos(index: Path, rows: np.ndarray) -> filters.Photos:
    """Return the samples of the given rows as filters judge them. The index is one with `Tar.look`."""
    with parquet.ParquetFile(index) as file:
        table = file.read(["captions", *_LOOKS]).take(rows)
    captions = [tuple(map(_decoded, said)) for said in table["captions"].to_pylist()]
    columns = (table[name].to_pylist() for name in _LOOKS)
    return filters.photos(captions, [filters.Look(*one) for one in zip(*columns, strict=True)])


def summary(index: Path) -> Summary:
    """Return what a plan needs of an index."""
    with parquet.ParquetFile(index) as file:  # `read_table` would make columns of folders named a=b
        table = file.read(["sha256", "number", "fault"])
    good = np.flatnonzero(table["fault"].is_null())
    faults = [_decoded(fault) for fault in table["fault"].drop_null().to_pylist()]
    kept = table.take(good)
    return Summary(good, kept["sha256"].to_pylist(), kept["number"].to_numpy(), faults)


def read(index: Path, tar: Path, rows: np.ndarray) -> Iterator[Sample]:
    """Yield the samples of the given rows, which ascend. Only the row groups that hold them are read."""
    with parquet.ParquetFile(index) as table:
        for group in np.unique(rows // _ROWS):
            inside = rows[rows // _ROWS == group] - group * _ROWS
            for row in table.read_row_group(int(group)).take(inside).to_pylist():
                path = Indexed(tar, _decoded(row["inside"]), row["offset"], row["size"], row["sha256"])
                yield Sample(path, tuple(map(_decoded, row["captions"])))
