"""Save and restore the checkpoints of a run. No other module uses Orbax.

    WORKDIR/checkpoints/frozen/params       the parameters that no stage trains: once a run
    WORKDIR/checkpoints/STEP/params         all others
                            /opt_state
                            /meta           JSON: step, stage, the whole config
                            /manifest.json  size and SHA-256 of every file; later the scores of this step

Orbax writes a checkpoint under a temporary name; the files are hashed, and a rename commits them. A checkpoint is
enough to evaluate, resume or export from. Nothing is read from it before its hashes were checked. The newest
`keep_last` are kept, and the best.
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

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.types import Params
from bridge_jax.workdir import atomic, manifest
from bridge_jax.workdir.meta import Meta, join_fitted, quality, read_config, read_meta, with_fitted
from bridge_jax.workdir.outcome import StorageError

FROZEN = "frozen"
# Our own errors report what goes wrong in Orbax; its tracebacks and metadata warnings would only hide them.
logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
standard_logging.getLogger("asyncio").setLevel("CRITICAL")  # its event loops have no other user here
_ASIDE = ".orbax-checkpoint-tmp"  # Orbax's suffix for a folder that it is still writing


class Checkpoints:
    """The checkpoints of a workdir. `frozen`: paths of the parameters that never change in this run.

    Opening reads and writes nothing. One save is under way at a time; if it fails, the next call raises StorageError.
    """

    def __init__(self, workdir: str | Path, keep_last: int = 2, *, frozen: Collection[str] = (), read_only=False):
        self.folder = Path(workdir).resolve() / manifest.CHECKPOINTS
        if read_only and not self.folder.is_dir():
            raise ConfigError(f"{str(self.folder)!r} is not there: expected a workdir of bridge_jax.main")
        self._keep_last, self._frozen = max(1, keep_last), frozenset(frozen)
        self._faults: dict[Path, str] = {}  # folder -> its damage; empty: it is whole, or this process wrote it
        self._saving: Path | None = None
        self._waiting = threading.Lock()
        arrays, json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        items = ocp.CompositeCheckpointHandler(params=arrays(), opt_state=arrays(), meta=json())
        self._orbax = ocp.AsyncCheckpointer(
            items,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._hash),
        )

    def save(self, step: int, stage: str, params: Params, opt_state: Any, cfg: Config, **about: Any) -> None:
        """Start a save; the arrays are copied before this returns. `about`: other fields of Meta.

        Without `opt_state` (None) a run can start from the checkpoint, but cannot resume its stage.
        """
        self.wait()
        self._clean()
        flat = paths.flatten(params)
        frozen = {path: flat.pop(path) for path in self._frozen}
        with self._storage_errors(self.folder / str(step)):
            if frozen and not (self.folder / FROZEN).exists():
                self._start(self.folder / FROZEN, params=ocp.args.StandardSave(paths.unflatten(frozen)))
                self._orbax.wait_until_finished()
            meta = Meta(
                schema=SCHEMA,
                step=step,
                stage=stage,
                config=as_dict(cfg),
                **about,
                frozen=manifest.read(self.folder / FROZEN)["sha256"] if frozen else "",
            )
            optimizer = {} if opt_state is None else {"opt_state": ocp.args.StandardSave(opt_state)}
            self._start(
                self.folder / str(step),
                params=ocp.args.StandardSave(paths.unflatten(flat)),
                meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
                **optimizer,
            )

    def wait(self) -> None:
        """Wait until the save under way is committed. Raises StorageError if it failed."""
        with self._waiting, self._storage_errors(self._saving):
            self._orbax.wait_until_finished()

    def check(self) -> None:
        """Raise StorageError if the save under way has failed so far."""
        with self._storage_errors(self._saving):
            self._orbax.check_for_errors()

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores of a step into its checkpoint. Raises StorageError."""
        self.wait()
        with self._storage_errors(self.folder / str(step)):
            if jax.process_index() == 0:
                manifest.score(self.folder / str(step), scores)

    def scores(self, step: int) -> dict[str, float]:
        """Return the scores of a step, empty if it was not scored. Raises StorageError."""
        self.wait()
        try:
            return manifest.read(self.folder / str(step))["scores"]
        except ValueError as error:
            raise StorageError(f"checkpoint {self.folder}/{step}: {error}") from error

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return manifest.committed(self.folder)

    def latest(self) -> int | None:
        """Return the newest step whose checkpoint is whole, or None if there are no checkpoints.

        A warning names the damaged ones. Raises StorageError if all are damaged.
        """
        return self._first_whole(sorted(self.steps(), reverse=True))

    def best(self) -> int | None:
        """Return the undamaged step with the best score of the last stage scored; without scores, the newest."""
        self.wait()
        known = {step: _quality(self.folder / str(step)) for step in self.steps()}
        scored = sorted((step for step in known if known[step] > -math.inf), key=lambda s: (known[s], s))
        return self._first_whole(scored[::-1]) if scored else self.latest()

    def choose(self, name: str) -> int:
        """Return the step that `best`, `latest` or a number names. Raises ConfigError listing the possible names."""
        step = self.best() if name == "best" else self.latest() if name == "latest" else None
        if name.isdecimal() and int(name) in self.steps():
            step = int(name)
        if step is None:
            there = ", ".join(["best", "latest", *map(str, self.steps())]) if self.steps() else "none at all"
            raise ConfigError(f"no checkpoint {name!r} in {self.folder}; there is {there}")
        return step

    def fault(self, step: int) -> str:
        """Return the damage of a checkpoint, or of the frozen parameters that belong to it; empty: it is whole."""
        self.wait()
        folder, frozen = self.folder / str(step), self.folder / FROZEN
        fault = self._fault(folder)
        if not fault and (expected := self._read_meta(step).frozen):
            fault = self._fault(frozen)
            if not fault and manifest.read(frozen)["sha256"] != expected:
                fault = "these are not the frozen parameters that this checkpoint was saved with"
            fault = fault and f"{FROZEN}: {fault}"
        return fault

    def _fault(self, folder: Path) -> str:
        if folder not in self._faults:
            self._faults[folder] = manifest.fault(folder)
        return self._faults[folder]

    def meta(self, step: int) -> Meta:
        """Return the Meta of a checkpoint. Raises ConfigError for another schema, StorageError for damage."""
        if fault := self.fault(step):
            raise StorageError(f"checkpoint {self.folder}/{step} is damaged: {fault}. Choose another step")
        return self._read_meta(step)

    def config(self, step: int) -> Config:
        """Return the config that the checkpoint was made with, with what was fitted to it since. Raises ConfigError."""
        return with_fitted(read_config(self.meta(step), f"{self.folder}/{step}"), self.scores(step))

    def fit(self, step: int, evaluator: str, fitted: Mapping[str, float]) -> None:
        """Write the settings of an evaluator that were fitted to a scored step. Raises StorageError."""
        if (joined := join_fitted(scores := self.scores(step), evaluator, fitted)) != scores:
            self.score(step, joined)

    def restore_params(self, step: int, like: Params, *, parts: Collection[str] = ()) -> Params:
        """Return the parameters, placed as `like` (abstract or real) is. Raises ConfigError if they do not fit.

        `parts`: path prefixes that may be missing on either side. What the checkpoint lacks keeps its value in `like`;
        what `like` lacks is dropped.
        """
        folders = [self.folder / str(step), *([self.folder / FROZEN] if self.meta(step).frozen else [])]
        stored = {folder: self._stored(folder, "params") for folder in folders}
        every = {path: shape for shapes in stored.values() for path, shape in shapes.items()}
        flat = paths.flatten(like)
        here, there = ({part for part in parts if any(p.startswith(part) for p in side)} for side in (flat, every))
        params = {path: leaf for path, leaf in flat.items() if path.startswith(tuple(here - there))}
        gone = {path for path in every if path.startswith(tuple(there - here))}
        fits = {path: shape for path, shape in every.items() if path not in gone}
        expected = {path: leaf for path, leaf in flat.items() if path not in params}
        _check_fit(folders[0] / "params", fits, paths.unflatten(expected))
        for folder, shapes in stored.items():  # Orbax reads all or nothing of a folder
            read = {path: np.empty(shape, np.float32) if path in gone else flat[path] for path, shape in shapes.items()}
            params |= paths.flatten(self._restore(folder, "params", paths.unflatten(read)))
        return paths.unflatten({path: params[path] for path in flat})

    def restore_opt_state(self, step: int, like: Any) -> Any:
        """Return the optimizer's state, placed as `like` is. Raises ConfigError if there is none or it does not fit."""
        folder = self.folder / str(self.meta(step).step)
        if not (folder / "opt_state").is_dir():
            raise ConfigError(
                f"{folder} has no opt_state, because it was imported: a run cannot resume it, but can start from it "
                f"with --config.init_from={self.folder.parent} and a --workdir of its own"
            )
        _check_fit(folder / "opt_state", self._stored(folder, "opt_state"), like)
        return self._restore(folder, "opt_state", like)

    def close(self) -> None:
        """Wait for the save under way and remove the checkpoints that are not kept."""
        self.wait()
        if self._saving is not None:
            self._clean()
        self._orbax.close()

    def _start(self, folder: Path, **items: Any) -> None:
        self._saving = folder
        self._remove([folder])  # if it exists it is damaged: the run would have resumed from it otherwise
        self._orbax.save(folder, args=ocp.args.Composite(**items))

    def _hash(self) -> None:
        """Add the manifest to the folder that Orbax wrote; Orbax renames it next. Runs in its thread, on process 0."""
        assert self._saving is not None
        (aside,) = self.folder.glob(f"{self._saving.name}{_ASIDE}*")
        manifest.write(aside)
        self._faults[self._saving] = ""

    def _clean(self) -> None:
        """Remove the remains of killed saves, and old checkpoints. The caller must hold the lock."""
        kept = [folder for step in self.steps() if not self._faults.get(folder := self.folder / str(step))]
        best = max(reversed(kept), key=_quality, default=None)  # without scores the newest, which is kept anyway
        gone = [folder for folder in kept[: -self._keep_last] if folder != best]
        gone += [] if self.steps() else [self.folder / FROZEN]  # left by a run killed before its first checkpoint
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
            raise StorageError(f"{'; '.join(faults)}. No other is left: move the folder away to start again")
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
    def _storage_errors(self, folder: Path | None) -> Iterator[None]:
        """Turn any error of a save into a StorageError, and free the space that the save took.

        Orbax's other writers cannot be waited for then: the next save removes their files (`_clean`).
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
    with contextlib.suppress(ValueError):
        return quality(manifest.read(folder)["scores"])
    return -math.inf


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    tree = getattr(tree, "tree", tree)
    return dict(zip(paths.every(tree), (tuple(leaf.shape) for leaf in jax.tree.leaves(tree)), strict=True))


def _check_fit(where: Path, stored: Mapping[str, tuple[int, ...]], like: Any) -> None:
    expected = _shapes(like)
    for name in sorted(stored.keys() ^ expected.keys()):
        side = "only in the checkpoint" if name in stored else "only in this config's model"
        raise ConfigError(f"{where}: {name!r} is {side}: it is a checkpoint of another config")
    for name, shape in expected.items():
        if stored[name] != shape:
            raise ConfigError(f"{where}: {name!r} has shape {stored[name]}; this config's model expects {shape}")
