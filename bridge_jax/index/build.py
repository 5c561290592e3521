"""Build an index over a folder of photos, or bring it up to date."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bridge_jax.config import ConfigError
from bridge_jax.data import image, pipeline
from bridge_jax.data.broken import BrokenError
from bridge_jax.index import approximate, held_out, query, store
from bridge_jax.index import folder as photo_folder
from bridge_jax.index.approximate import Graph
from bridge_jax.index.folder import Changes
from bridge_jax.index.model import Model
from bridge_jax.index.refusal import Refusal, calibrate
from bridge_jax.index.store import File, Manifest
from bridge_jax.types import Progress
from bridge_jax.workdir import atomic, lock
from bridge_jax.workdir.outcome import StorageError

Say = Callable[[str], None]
COMMIT = 4  # batches; a kill loses the photos of fewer


class Built(NamedTuple):
    """The result of a build."""

    changes: Changes
    skipped: Sequence[File]
    photos: int  # in the index; copies count once
    unused: int  # rows whose photo was deleted
    refusal: Refusal | None  # where there was a calibration
    approximate: Graph | None  # where there is one beside the exact index


class _View(NamedTuple):
    """A decoded photo, or its fault."""

    content: dict[str, str]
    pixels: np.ndarray = np.zeros(0, np.uint8)
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of an index beside the embeddings."""

    states: bool = True  # the lower states that the bridge reads; their size is told before they are written
    refusal: bool = True  # calibrated on the held-out pairs of the model's config, once
    approximate: bool | None = None  # an approximate index; None: where the index has one already


def build(model: Model, photos: Path, index: Path, parts: Parts, *, say: Say, progress: Progress) -> Built:
    """Index every photo below `photos`. A build that was killed goes on where it committed last.

    Raises ConfigError for an index of another checkpoint or folder, WorkdirBusyError while another build is at work,
    StorageError where the disk is full; the index is then as it was, with the photos of the last commit.
    """
    with lock.hold(index, "--index"):
        manifest = store.read_manifest(index)
        before = store.read_files(index, manifest) if manifest else []
        files = photo_folder.survey(photos, before, progress)
        manifest = _start(model, photos.resolve(), index, parts.states and model.bridged)
        store.cut(index, manifest)
        wanted = manifest.approximate is not None if parts.approximate is None else parts.approximate
        if wanted:
            approximate.check()
        if parts.refusal and model.bridged and manifest.refusal is None:
            refusal = dataclasses.asdict(calibrate(*held_out.pairs(model, model.cfg.data.eval_split, progress)))
            manifest = dataclasses.replace(manifest, refusal=refusal)
            store.write_manifest(index, manifest)
        rows = {content["sha256"]: row for row, content in enumerate(store.contents(index, manifest))}
        todo = list({file.sha256: file for file in files if file.sha256 and file.sha256 not in rows}.values())
        _check_room(manifest, index, len(todo), say)
        faults: dict[str, str] = {}
        try:
            for arrays, contents in _groups(model, photos, todo, manifest, faults, progress):
                rows |= {content["sha256"]: manifest.rows + i for i, content in enumerate(contents)}
                manifest = store.append(index, manifest, arrays, contents)
            files = [
                file._replace(row=rows.get(file.sha256, -1), fault=file.fault or faults.get(file.sha256, ""))
                for file in files
            ]
            used = np.unique([file.row for file in files if file.row >= 0])
            graph = None
            try:  # one commit of both; where the approximate index is refused, of the exact one
                if wanted and len(used):
                    graph = dataclasses.asdict(_graph(model, index, manifest, used, progress))
            finally:
                manifest = store.write_files(index, dataclasses.replace(manifest, approximate=graph), files)
                approximate.clean(index, graph)
        except OSError as error:
            store.cut(index, manifest)
            raise StorageError(
                f"{index}: {error.strerror}; the index is whole and holds {manifest.rows} photos: make "
                "room, then run the same command again"
            ) from error
    skipped = [file for file in files if file.row < 0]
    changed, unused = photo_folder.changes(before, files), manifest.rows - len(used)
    refusal = Refusal(**manifest.refusal) if manifest.refusal else None
    return Built(changed, skipped, len(used), unused, refusal, Graph(**graph) if graph else None)


def _graph(model: Model, index: Path, manifest: Manifest, rows: np.ndarray, progress: Progress) -> Graph:
    """Return the approximate index of some rows: that of the last build, if it is of these, else a new one."""
    last = manifest.approximate
    if last and last["rows"] == approximate.digest(rows) and (index / last["file"]).is_file():
        return Graph(**last)
    return approximate.build(index, model, store.embeddings(index, manifest), rows, progress)


def _start(model: Model, photos: Path, index: Path, states: bool) -> Manifest:
    """Return the manifest of the index, and write one where there is none. Raises ConfigError."""
    manifest = store.read_manifest(index)
    if manifest is None:
        blank = np.zeros((model.batch, model.cfg.vision.image_px, model.cfg.vision.image_px, 3), np.uint8)
        embeddings, lower = model.photos(blank)
        shape = (embeddings.shape[1], *lower.shape[1:])
        atomic.write_text(index / store.TOKENIZER, model.tokenizer.to_json())
        for name in (store.EMBEDDINGS, store.CONTENTS, *([store.STATES] if states else [])):
            (index / name).touch()
        manifest = Manifest(
            store.FORMAT, model.digest, str(model.workdir), model.step, str(photos), shape=shape, states=states
        )
        store.write_manifest(index, manifest)
    query.check_checkpoint(manifest, model, index)
    if Path(manifest.photos) != photos:
        if Path(manifest.photos).is_dir():
            raise ConfigError(
                f"--index: {index} is of the photos in {manifest.photos}, not of {photos}: give another --index"
            )
        manifest = dataclasses.replace(manifest, photos=str(photos))  # the whole folder moved
    if manifest.states != states:
        stored = "stores the lower states" if manifest.states else "was built with --no_states"
        raise ConfigError(f"--index: {index} {stored}: build it as before, or give another --index")
    return manifest


def _check_room(manifest: Manifest, index: Path, photos: int, say: Say) -> None:
    """Tell the size of the index. Raises StorageError where the disk has no room for what is missing of it."""
    rows, free = manifest.rows + photos, shutil.disk_usage(index).free
    _, tokens, width = manifest.shape
    sizes = {name: rows * size for name, size in manifest.row_bytes.items()}
    parts = [f"embeddings {_megabytes(sizes[store.EMBEDDINGS])}"]
    if manifest.states:
        parts.append(f"lower states {_megabytes(sizes[store.STATES])}, {tokens} x {width} float16 a photo")
    say(f"{rows} photos, {photos} to embed; {'; '.join(parts)}")
    needed = photos * sum(manifest.row_bytes.values())
    if needed > free:
        advice = "make room, or build another index with --no_states" if manifest.states else "make room"
        raise StorageError(f"{index}: needs {_megabytes(needed)} more, and {_megabytes(free)} are free: {advice}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _groups(
    model: Model, photos: Path, todo: Sequence[File], manifest: Manifest, faults: dict[str, str], progress: Progress
) -> Iterator[tuple[dict[str, np.ndarray], list[dict[str, str]]]]:
    """Yield the arrays and contents of as many photos as are committed together; fill `faults` by hash.

    The groups depend on the photos that can be read alone, so those after a kill are those of a build without one.
    """
    size, group = model.batch, []
    for done, view in enumerate(_views(model, photos, todo), 1):
        if view.fault:
            faults[view.content["sha256"]] = view.fault
        else:
            group.append(view)
        if len(group) == COMMIT * size:
            yield _embed(model, group, manifest.states)
            group = []
        if done % size == 0 or done == len(todo):
            progress("photos", done, len(todo))
    if group:
        yield _embed(model, group, manifest.states)


def _views(model: Model, photos: Path, todo: Sequence[File]) -> Iterator[_View]:
    """Yield the photos in order, decoded ahead in threads."""
    data, px = model.cfg.data, model.cfg.vision.image_px

    def view(position: int) -> _View:
        file = todo[position]
        content = {"sha256": file.sha256}
        try:
            encoded = (photos / file.path).read_bytes()
            if hashlib.sha256(encoded).hexdigest() != file.sha256:
                return _View(content, fault="changed during the build: build again")
            return _View(content | {"taken": image.taken(encoded)}, image.eval_view(encoded, px, data.squash))
        except BrokenError as error:
            return _View(content, fault=str(error))
        except OSError as error:
            return _View(content, fault=f"{error.strerror}: build again")

    for first, views in pipeline.batched(view, len(todo), model.batch, data.threads):
        yield from views[: len(todo) - first]


def _embed(model: Model, group: Sequence[_View], states: bool) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    arrays: dict[str, list[np.ndarray]] = {store.EMBEDDINGS: []} | ({store.STATES: []} if states else {})
    for first in range(0, len(group), model.batch):
        views = group[first : first + model.batch]
        rows = np.minimum(np.arange(model.batch), len(views) - 1)
        embeddings, lower = model.photos(np.stack([view.pixels for view in views])[rows])
        arrays[store.EMBEDDINGS].append(embeddings[: len(views)])
        if states:
            arrays[store.STATES].append(store.half(np.asarray(lower[: len(views)], np.float32)))
    return {name: np.concatenate(parts) for name, parts in arrays.items()}, [view.content for view in group]
