"""Checkpoints of a run: written aside by Orbax, which lives here alone, hashed, and committed last by a rename.

    WORKDIR/checkpoints/frozen/params       the parameters that no stage trains: once a run
    WORKDIR/checkpoints/STEP/params         all others
                            /opt_state
                            /meta           JSON: step, stage, the whole config
                            /manifest.json  size and SHA-256 of every file; later the scores of this step

A checkpoint is enough to evaluate, resume or export from. Nothing is read from it before its hashes were checked. The
newest `keep_last` are kept, and the best.
"""

import contextlib
import dataclasses
import logging as standard_logging
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util

from bridge_jax.config import Config, ConfigError
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.types import Params
from bridge_jax.workdir import atomic, manifest
from bridge_jax.workdir.meta import STAGE, Meta, read_config, read_meta, score_of
from bridge_jax.workdir.outcome import StorageError

FROZEN = "frozen"
# What Orbax has to tell is told by errors of our own; its tracebacks and metadata warnings would only hide them.
logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
standard_logging.getLogger("asyncio").setLevel("CRITICAL")  # its event loops have no other user here
_ASIDE = ".orbax-checkpoint-tmp"  # what Orbax puts behind the name of what it is still writing


class Checkpoints:
    """The checkpoints of a workdir. `frozen`: paths of the parameters that never change in this run.

    Opening reads and writes nothing. One save is under way at a time; what went wrong with it is raised as StorageError
    by whatever is called next.
    """

    def __init__(self, workdir: str | Path, keep_last: int = 2, *, frozen: Collection[str] = (), read_only=False):
        self.folder = Path(workdir).resolve() / manifest.CHECKPOINTS
        if read_only and not self.folder.is_dir():
            raise ConfigError(f"{str(self.folder)!r} is not there: expected a workdir that bridge_jax.main trained in")
        self._keep_last, self._frozen = max(1, keep_last), frozenset(frozen)
        self._faults: dict[Path, str] = {}  # folder -> what its hashes told; empty: whole, or made by this process
        self._saving: Path | None = None
        self._waiting = threading.Lock()
        arrays, json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        items = ocp.CompositeCheckpointHandler(params=arrays(), opt_state=arrays(), meta=json())
        self._orbax = ocp.AsyncCheckpointer(
            items,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._hash),
        )

    def save(self, step: int, stage: str, params: Params, opt_state: Any, cfg: Config, **about: Any) -> None:
        """Start to save; the arrays are copied before this returns. `about`: `fused_trained` and `answers` of Meta.

        Without `opt_state` (None) a run can start from the checkpoint, but not go on in the middle of its stage.
        """
        self.wait()
        self._clean()
        flat = traverse_util.flatten_dict(params, sep="/")
        still = {path: flat.pop(path) for path in self._frozen}
        with self._told(self.folder / str(step)):
            if still and not (self.folder / FROZEN).exists():
                self._start(self.folder / FROZEN, params=ocp.args.StandardSave(_nested(still)))
                self._orbax.wait_until_finished()
            meta = Meta(
                schema=SCHEMA,
                step=step,
                stage=stage,
                config=as_dict(cfg),
                **about,
                frozen=manifest.read(self.folder / FROZEN)["sha256"] if still else "",
            )
            optimizer = {} if opt_state is None else {"opt_state": ocp.args.StandardSave(opt_state)}
            self._start(
                self.folder / str(step),
                params=ocp.args.StandardSave(_nested(flat)),
                meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
                **optimizer,
            )

    def wait(self) -> None:
        """Wait until the save under way is committed. Raises StorageError where it failed."""
        with self._waiting, self._told(self._saving):
            self._orbax.wait_until_finished()

    def check(self) -> None:
        """Raise StorageError where the save under way has failed by now."""
        with self._told(self._saving):
            self._orbax.check_for_errors()

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Put the scores of a step into its checkpoint."""
        self.wait()
        with self._told(self.folder / str(step)):
            if jax.process_index() == 0:
                manifest.score(self.folder / str(step), scores)

    def scores(self, step: int) -> dict[str, float]:
        """Return the scores of a step, empty where it was not scored. Raises StorageError."""
        self.wait()
        try:
            return manifest.read(self.folder / str(step))["scores"]
        except ValueError as error:
            raise StorageError(f"checkpoint {self.folder}/{step}: {error}") from error

    def steps(self) -> list[int]:
        return manifest.committed(self.folder)

    def latest(self) -> int | None:
        """Return the newest step whose checkpoint is whole, or None where there are none at all.

        Damaged ones are named in a warning. Raises StorageError where there are only damaged ones.
        """
        return self._first_whole(sorted(self.steps(), reverse=True))

    def best(self) -> int | None:
        """Return the whole step with the best score of the last stage that was scored; without scores, the newest."""
        self.wait()
        quality = {step: _quality(self.folder / str(step)) for step in self.steps()}
        scored = sorted((step for step in quality if quality[step] > -math.inf), key=lambda s: (quality[s], s))
        return self._first_whole(scored[::-1]) if scored else self.latest()

    def choose(self, name: str) -> int:
        """Return the step that `best`, `latest` or a number stands for. Raises ConfigError naming what there is."""
        found = self.best() if name == "best" else self.latest() if name == "latest" else None
        if name.isdecimal() and int(name) in self.steps():
            found = int(name)
        if found is None:
            there = ", ".join(["best", "latest", *map(str, self.steps())]) if self.steps() else "none at all"
            raise ConfigError(f"no checkpoint {name!r} in {self.folder}; there is {there}")
        return found

    def fault(self, step: int) -> str:
        """Return what is damaged in a checkpoint, or in the frozen parameters that belong to it; empty: it is whole."""
        self.wait()
        folder, frozen = self.folder / str(step), self.folder / FROZEN
        fault = self._fault(folder)
        if not fault and (wanted := self._read_meta(step).frozen):
            fault = self._fault(frozen)
            if not fault and manifest.read(frozen)["sha256"] != wanted:
                fault = "it is not what this checkpoint was saved with"
            fault = fault and f"{FROZEN}: {fault}"
        return fault

    def _fault(self, folder: Path) -> str:
        if folder not in self._faults:
            self._faults[folder] = manifest.fault(folder)
        return self._faults[folder]

    def meta(self, step: int) -> Meta:
        """Return what the checkpoint says of itself. Raises ConfigError for another schema, StorageError for damage."""
        if fault := self.fault(step):
            raise StorageError(f"checkpoint {self.folder}/{step} is damaged: {fault}. Choose another step")
        return self._read_meta(step)

    def config(self, step: int) -> Config:
        """Return the config that the checkpoint was made with. Raises ConfigError where this code cannot read it."""
        return read_config(self.meta(step), f"{self.folder}/{step}")

    def restore_params(self, step: int, like: Params, *, parts: Collection[str] = ()) -> Params:
        """Return the parameters, placed as `like` (abstract or real) is. Raises ConfigError where they do not fit.

        `parts` are beginnings of paths, all of which one of the two sides may lack: what the checkpoint has nothing of
        is returned as it is in `like`, and what `like` has nothing of is dropped.
        """
        folders = [self.folder / str(step), *([self.folder / FROZEN] if self.meta(step).frozen else [])]
        stored = {folder: self._stored(folder, "params") for folder in folders}
        every = {path: shape for shapes in stored.values() for path, shape in shapes.items()}
        flat, found = traverse_util.flatten_dict(like, sep="/"), {}
        here, there = ({part for part in parts if any(p.startswith(part) for p in side)} for side in (flat, every))
        found |= {path: leaf for path, leaf in flat.items() if path.startswith(tuple(here - there))}
        gone = {path for path in every if path.startswith(tuple(there - here))}
        fits = {path: shape for path, shape in every.items() if path not in gone}
        _check_fit(folders[0] / "params", fits, _nested({p: leaf for p, leaf in flat.items() if p not in found}))
        for folder, shapes in stored.items():  # Orbax reads all or nothing of a folder
            read = {path: np.empty(shape, np.float32) if path in gone else flat[path] for path, shape in shapes.items()}
            found |= traverse_util.flatten_dict(self._restore(folder, "params", _nested(read)), sep="/")
        return _nested({path: found[path] for path in flat})

    def restore_opt_state(self, step: int, like: Any) -> Any:
        """Return the optimizer's state, placed as `like` is."""
        folder = self.folder / str(self.meta(step).step)
        if not (folder / "opt_state").is_dir():
            raise ConfigError(
                f"{folder} has no opt_state, as imported models have none: a run cannot go on in it, but can start "
                f"from it with --config.init_from={self.folder.parent} and a --workdir of its own"
            )
        _check_fit(folder / "opt_state", self._stored(folder, "opt_state"), like)
        return self._restore(folder, "opt_state", like)

    def close(self) -> None:
        """Wait for the save under way and remove what is not kept."""
        self.wait()
        if self._saving is not None:
            self._clean()
        self._orbax.close()

    def _start(self, folder: Path, **items: Any) -> None:
        self._saving = folder
        self._remove([folder])  # where it is there it is damaged, or the run would have gone on from it
        self._orbax.save(folder, args=ocp.args.Composite(**items))

    def _hash(self) -> None:
        """Complete what Orbax has written aside; it renames it next. Called in its thread, on process 0 alone."""
        assert self._saving is not None
        (aside,) = self.folder.glob(f"{self._saving.name}{_ASIDE}*")
        manifest.write(aside)
        self._faults[self._saving] = ""

    def _clean(self) -> None:
        """Remove what a killed save left, and the checkpoints that are kept no longer. The lock must be ours."""
        kept = [folder for step in self.steps() if not self._faults.get(folder := self.folder / str(step))]
        best = max(reversed(kept), key=_quality, default=None)  # without scores the newest, which is kept anyway
        gone = [folder for folder in kept[: -self._keep_last] if folder != best]
        gone += [] if self.steps() else [self.folder / FROZEN]  # of a run that was killed before its first checkpoint
        self._remove([*gone, *self.folder.glob(f"*{_ASIDE}*"), *self.folder.glob(f"*{atomic.REMOVED}")])

    def _first_whole(self, steps: list[int]) -> int | None:
        faults = []
        for step in steps:
            if not (fault := self.fault(step)):
                for line in faults:
                    logging.warning("%s; going back to checkpoint %d", line, step)
                return step
            faults.append(f"checkpoint {self.folder}/{step} is damaged: {fault}")
        if faults:
            raise StorageError(f"{'; '.join(faults)}. No other is left: move the folder away to start anew")
        return None

    def _read_meta(self, step: int) -> Meta:
        raw = self._orbax.restore(self.folder / str(step), ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        return read_meta(raw, f"{self.folder}/{step}")

    def _stored(self, folder: Path, item: str) -> dict[str, tuple[int, ...]]:
        metadata: Any = self._orbax.metadata(folder).item_metadata
        return _shapes(metadata[item])

    def _restore(self, folder: Path, item: str, like: Any) -> Any:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._orbax.restore(folder, ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)}))[item]

    @contextlib.contextmanager
    def _told(self, folder: Path | None) -> Iterator[None]:
        """Turn whatever goes wrong with a save into a StorageError, and give back the space that it took.

        Orbax's other writers cannot be waited for then: what they still write, the next save removes (`_clean`).
        """
        try:
            yield
        except Exception as error:
            if folder is not None:
                self._remove(self.folder.glob(f"{folder.name}{_ASIDE}*"))
            text = " ".join(str(error).split())[:800] or type(error).__name__
            raise StorageError(f"{folder} could not be saved: {text}. Earlier checkpoints are whole") from error

    def _remove(self, folders: Iterable[Path]) -> None:
        if jax.process_index() == 0:
            for folder in folders:
                atomic.remove(folder)


def _quality(folder: Path) -> float:
    try:
        scores = manifest.read(folder)["scores"]
    except ValueError:
        return -math.inf
    # A later stage is always preferred: rsum is at most 600, an accuracy 100.
    return 1000.0 * scores[STAGE] + score_of(scores) if scores else -math.inf


def _nested(flat: Mapping[str, Any]) -> Params:
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_flatten_with_path(getattr(tree, "tree", tree))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in flat}


def _check_fit(where: Path, stored: Mapping[str, tuple[int, ...]], like: Any) -> None:
    wanted = _shapes(like)
    for name in sorted(stored.keys() ^ wanted.keys()):
        side = "only in the checkpoint" if name in stored else "only in this config's model"
        raise ConfigError(f"{where}: {name!r} is {side}: it is a checkpoint of another config")
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise ConfigError(f"{where}: {name!r} has shape {stored[name]}, this config's model wants {shape}")
