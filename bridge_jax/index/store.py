"""The files of an index. A kill at any moment leaves the old index or the new one.

    INDEX/index.json        the manifest, replaced as a whole: how much of the other files counts
          embeddings.f32    float32 [rows,E], unimodal; rows are only ever appended
          states.f16        float16 [rows,P,D], the lower states that the bridge reads; absent with --no_states
          contents.jsonl    a line a row: SHA-256 of the photo's bytes, when it was taken
          files-HASH.jsonl  a line a file of the folder: its path, size, time, SHA-256; why it was skipped
          neighbours-HASH.usearch  the approximate index of approximate.py, with --approximate
          tokenizer.json    the vocabulary of the checkpoint, so that a query needs no prepared data

A row belongs to a content, not to a path: photos that move keep theirs, and copies share one.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import atomic

FORMAT = 1
MANIFEST, TOKENIZER = "index.json", "tokenizer.json"
EMBEDDINGS, STATES, CONTENTS = "embeddings.f32", "states.f16", "contents.jsonl"
ID = 16  # hexadecimal digits of a photo's SHA-256 that name it


@dataclasses.dataclass(frozen=True)
class Manifest:
    """How much of an index counts, and which checkpoint and photos it is of."""

    format: int
    checkpoint: str  # hash of the parameters that made it
    workdir: str
    step: int
    photos: str  # the folder
    shape: tuple[int, int, int]  # width of an embedding; tokens and width of the lower states
    states: bool  # whether those are stored
    rows: int = 0
    contents_bytes: int = 0
    files: str = ""  # name of the list of files; empty: the first build did not end
    refusal: Mapping[str, Any] | None = None  # refusal.Refusal, as a record
    approximate: Mapping[str, Any] | None = None  # approximate.Graph, as a record

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes of a row in each of the files of arrays."""
        embed, tokens, width = self.shape
        return {EMBEDDINGS: 4 * embed, **({STATES: 2 * tokens * width} if self.states else {})}

    @property
    def searched(self) -> tuple[Any, ...]:
        """The state of the index that a search reads. Commits in the middle of a build do not change it."""
        return self.photos, self.files, self.refusal, self.approximate


class File(NamedTuple):
    """A file of the folder. `row` is -1 where it was skipped, and `fault` says why."""

    path: str
    sha256: str
    bytes: int
    mtime_ns: int
    row: int = -1
    fault: str = ""


class Photo(NamedTuple):
    """A photo of an index."""

    row: int
    id: str
    path: str  # within the folder; of copies the first
    date: str  # YYYY-MM-DD, when it was taken; of its file where it does not say so


@dataclasses.dataclass(frozen=True)
class Index:
    """An index that can be searched."""

    folder: Path
    manifest: Manifest
    photos: Mapping[int, Photo]  # row -> photo; rows whose photo was deleted are absent
    live: Bool[np.ndarray, " rows"]  # which are there
    embeddings: Float[np.ndarray, "rows E"]
    states: Float[np.ndarray, "rows P D"] | None  # float16, mapped

    @functools.cached_property
    def by_id(self) -> Mapping[str, Photo]:
        """The photos by the beginning of their hash."""
        return {photo.id: photo for photo in self.photos.values()}

    def file(self, photo: Photo) -> Path:
        """Return the file of a photo, which may have vanished since."""
        return Path(self.manifest.photos) / photo.path


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest, None where the folder has none. Raises ConfigError where this code cannot read it."""
    try:
        record = as_json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ConfigError(f"--index: {folder} has format {record['format']}, expected {FORMAT}: build it anew")
        manifest = Manifest(**record | {"shape": tuple(record["shape"])})
        _check(manifest)
        return manifest
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--index: {folder / MANIFEST} is damaged ({error}): remove {folder} and build anew"
        ) from error


def _check(manifest: Manifest) -> None:
    """Raise TypeError where a manifest holds values of another kind."""
    _, _, _ = manifest.shape
    counts = (manifest.step, manifest.rows, manifest.contents_bytes, *manifest.shape)
    texts = (manifest.checkpoint, manifest.workdir, manifest.photos, manifest.files)
    records = (manifest.refusal or {}, manifest.approximate or {})
    for values, kind in ((counts, int), (texts, str), (records, dict)):
        if odd := [value for value in values if type(value) is not kind]:
            raise TypeError(f"{odd[0]!r:.60}")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise ConfigError, naming the file of an index, for any error that its content makes."""
    try:
        yield
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"--index: {file} is damaged ({error!r}): remove {file.parent} and build anew") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest."""
    atomic.write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def cut(folder: Path, manifest: Manifest) -> None:
    """Remove what a build wrote after its last commit. Raises ConfigError where a file lacks rows that count."""
    sizes = {name: manifest.rows * size for name, size in manifest.row_bytes.items()}
    for name, size in (sizes | {CONTENTS: manifest.contents_bytes}).items():
        with (folder / name).open("ab") as file:
            if file.tell() < size:
                raise ConfigError(
                    f"--index: {folder / name} has {file.tell()} bytes, expected {size}: remove {folder} and build anew"
                )
            file.truncate(size)


def append(
    folder: Path, manifest: Manifest, arrays: Mapping[str, np.ndarray], contents: Iterable[Mapping[str, str]]
) -> Manifest:
    """Append rows, sync them to the disk, commit them, and return the new manifest."""
    lines = "".join(json.dumps(content) + "\n" for content in contents).encode()
    for name, data in {**{name: array.tobytes() for name, array in arrays.items()}, CONTENTS: lines}.items():
        with (folder / name).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    rows = manifest.rows + len(arrays[EMBEDDINGS])
    manifest = dataclasses.replace(manifest, rows=rows, contents_bytes=manifest.contents_bytes + len(lines))
    write_manifest(folder, manifest)
    return manifest


def contents(folder: Path, manifest: Manifest) -> list[dict[str, str]]:
    """Return the content of every row: its `sha256`, and when it was `taken`. Raises ConfigError for a damaged file."""
    with reading(folder / CONTENTS), (folder / CONTENTS).open("rb") as file:
        lines = file.read(manifest.contents_bytes).splitlines()
        found = [{key: str(as_json.loads(line)[key]) for key in ("sha256", "taken")} for line in lines]
        if len(found) != manifest.rows:
            raise ValueError(f"{len(found)} lines, expected {manifest.rows}")
        return found


def embeddings(folder: Path, manifest: Manifest) -> Float[np.ndarray, "rows E"]:
    """Return the embeddings of all rows, mapped; some may be of photos that were deleted."""
    return _mapped(folder / EMBEDDINGS, np.float32, (manifest.rows, manifest.shape[0]))


def read_files(folder: Path, manifest: Manifest) -> list[File]:
    """Return the files of the folder, in the order of their paths. Raises ConfigError for a damaged list."""
    if not manifest.files:
        return []
    with reading(folder / manifest.files):
        text = (folder / manifest.files).read_text(encoding="utf-8")
        if _list_name(text) != manifest.files:
            raise ValueError("it has changed since it was written")
        return [File(*as_json.loads(line)) for line in text.splitlines()]


def write_files(folder: Path, manifest: Manifest, files: Iterable[File]) -> Manifest:
    """Replace the list of files and return the new manifest."""
    text = "".join(json.dumps(list(file)) + "\n" for file in files)
    name = _list_name(text)
    atomic.write_text(folder / name, text)
    manifest = dataclasses.replace(manifest, files=name)
    write_manifest(folder, manifest)
    for old in folder.glob("files-*"):
        if old.name != name:
            old.unlink()
    return manifest


def _list_name(text: str) -> str:
    return f"files-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"


def open_index(folder: str | Path) -> Index:
    """Open an index for search. Raises ConfigError where there is none, or its first build did not end."""
    folder = Path(folder).resolve()
    manifest = read_manifest(folder)
    if manifest is None or not manifest.files:
        state = "there is no index" if manifest is None else f"the build did not end ({manifest.rows} photos so far)"
        raise ConfigError(
            f"--index: {folder}: {state}; run python -m tools.search build PHOTOS --workdir=RUN --index={folder}"
        )
    known, photos = contents(folder, manifest), {}
    for file in read_files(folder, manifest):
        if file.row >= 0:
            date = known[file.row]["taken"] or _day(file.mtime_ns)
            photos.setdefault(file.row, Photo(file.row, file.sha256[:ID], file.path, date))
    _, *states = manifest.shape
    live = np.isin(np.arange(manifest.rows), list(photos))
    return Index(
        folder,
        manifest,
        photos,
        live,
        embeddings(folder, manifest),
        _mapped(folder / STATES, np.float16, (manifest.rows, *states)) if manifest.states else None,
    )


def _day(mtime_ns: int) -> str:
    return str(np.datetime64(mtime_ns, "ns").astype("datetime64[D]"))


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    with reading(path):
        return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)


def half(lower: np.ndarray) -> np.ndarray:
    """Return lower states as float16. Raises ConfigError where one is too large for it."""
    if not np.abs(lower).max(initial=0) < np.finfo(np.float16).max:
        raise ConfigError(
            f"the image tower's lower states reach {np.abs(lower).max():.3g}; the index holds float16, which ends at "
            "65504: build it with --no_states"
        )
    return lower.astype(np.float16)
