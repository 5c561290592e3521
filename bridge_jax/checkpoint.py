"""Checkpoints of a run: written aside and committed last by Orbax, which lives here alone.

One checkpoint is three items: `params`, `opt_state`, and `meta` (JSON: step, stage, the whole config, the score it was
selected by), so that a checkpoint is enough to evaluate, resume or export from. The newest `keep_last` are kept, and
the best.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as managers

from bridge_jax.config import Config, ConfigError, parse
from bridge_jax.types import Params

FOLDER = "checkpoints"
SCORE = "unimodal_rsum"
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself. `step` counts the steps done; `stage` is the one that did the last of them."""

    schema: int
    step: int
    stage: str
    config: Mapping[str, Any]
    scores: Mapping[str, float]  # empty where no evaluation was made at this step
    fused_trained: bool = False  # whether the fused heads were ever trained, here or in what the run started from


class Checkpoints:
    """The checkpoints of a workdir."""

    def __init__(self, workdir: str | Path, keep_last: int = 2, *, read_only: bool = False):
        self.folder = Path(workdir).resolve() / FOLDER
        if read_only and not self.folder.is_dir():
            raise ConfigError(f"{str(self.folder)!r} is not there: expected a workdir that bridge_jax.main trained in")
        keep = managers.AnyPreservationPolicy(
            [
                managers.LatestN(max(1, keep_last)),
                managers.BestN(get_metric_fn=_quality, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "opt_state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        with _quiet():  # Orbax warns three times that it will not write
            options = ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else keep, read_only=read_only, best_fn=_quality
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(
        self,
        step: int,
        stage: str,
        params: Params,
        opt_state: Any,
        cfg: Config,
        scores: Mapping[str, float],
        *,
        fused_trained: bool = False,
    ) -> None:
        """Start to save; the arrays are copied before this returns. A failure of the last save is raised here.

        Without `opt_state` (None) a run can start from the checkpoint, but not go on in the middle of its stage.
        """
        meta = Meta(
            schema=SCHEMA,
            step=step,
            stage=stage,
            config=as_dict(cfg),
            scores=dict(scores),
            fused_trained=fused_trained,
        )
        items = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave(dataclasses.asdict(meta))}
        if opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(opt_state)
        with _quiet():  # Orbax warns of every save without a score
            self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics=dict(scores) or None,
                force=True,
            )

    def latest(self) -> int | None:
        """Return the newest step saved, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Return the step with the best score of the last stage that was scored, or the newest; None without any."""
        self._manager.wait_until_finished()  # the metrics of a save under way cannot be read yet
        scored = {step: _quality(found) for step in self.steps() if (found := self._manager.metrics(step))}
        return max(scored, key=lambda step: (scored[step], step)) if scored else self.latest()

    def choose(self, name: str) -> int:
        """Return the step `name` (best, latest or a number) stands for. Raises ConfigError naming what there is."""
        found = self.best() if name == "best" else self.latest() if name == "latest" else None
        if name.isdecimal() and int(name) in self.steps():
            found = int(name)
        if found is None:
            there = ", ".join(["best", "latest", *map(str, self.steps())]) if self.steps() else "none at all"
            raise ConfigError(f"--checkpoint: no {name!r} in {self.folder}; there is {there}")
        return found

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def meta(self, step: int) -> Meta:
        """Return what the checkpoint says of itself. Raises ConfigError for another schema."""
        self._manager.wait_until_finished()
        raw = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        return read_meta(raw, f"{self.folder}/{step}")

    def config(self, step: int) -> Config:
        """Return the config that the checkpoint was made with. Raises ConfigError where this code cannot read it."""
        return read_config(self.meta(step), f"{self.folder}/{step}")

    def restore_params(self, step: int, like: Params) -> Params:
        """Return the parameters, placed as `like` (abstract or real) is. Raises ConfigError where they do not fit."""
        return self._restore(step, "params", like)

    def restore_opt_state(self, step: int, like: Any) -> Any:
        """Return the optimizer's state, placed as `like` is."""
        return self._restore(step, "opt_state", like)

    def _restore(self, step: int, item: str, like: Any) -> Any:
        self._manager.wait_until_finished()
        items = self._manager.item_metadata(step)
        if item not in items:
            raise ConfigError(
                f"{self.folder}/{step} has no {item}, as imported models have none: a run cannot go on in it, but can "
                f"start from it with --config.init_from={self.folder.parent} and a --workdir of its own"
            )
        _check_fit(f"{self.folder}/{step}/{item}", items[item], like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        return self._manager.restore(step, args=args)[item]

    def close(self) -> None:
        """Wait for the save under way."""
        self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_meta(raw: Mapping[str, Any], where: str) -> Meta:
    """Return a record that was stored as JSON. Raises ConfigError, naming `where`, for another schema."""
    if raw.get("schema") != SCHEMA:
        raise ConfigError(f"{where}: checkpoint schema {raw.get('schema')}, this code reads {SCHEMA}")
    try:
        return Meta(**raw)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error


def read_config(meta: Meta, where: str) -> Config:
    """Return the config of a record. Raises ConfigError, naming `where`, where this code cannot read it."""
    try:
        return parse(ml_collections.ConfigDict(dict(meta.config)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error


def as_dict(cfg: Any) -> Any:
    """Return a config record as plain dicts and lists that JSON can hold; `Checkpoints.config` is the way back."""
    if dataclasses.is_dataclass(cfg):
        return {field.name: as_dict(getattr(cfg, field.name)) for field in dataclasses.fields(cfg)}
    if isinstance(cfg, Mapping):
        return {key: as_dict(value) for key, value in cfg.items()}
    return [as_dict(value) for value in cfg] if isinstance(cfg, tuple) else cfg


def differences(saved: Mapping[str, Any], cfg: Config) -> list[str]:
    """Return the config keys, as `a.b.c: saved -> now`, in which a checkpoint and a config differ."""
    now = json.loads(json.dumps(as_dict(cfg)))

    def walk(a: Any, b: Any, key: str) -> list[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            parts = (walk(a.get(n), b.get(n), f"{key}.{n}" if key else n) for n in sorted(a.keys() | b.keys()))
            return [line for part in parts for line in part]
        return [] if a == b else [f"{key}: {a!r} -> {b!r}"]

    return walk(saved, now, "")


def _quality(metrics: Mapping[str, float]) -> float:
    # A later stage is always preferred: rsum is at most 600.
    return 1000.0 * metrics["stage_index"] + metrics[SCORE]


def _check_fit(where: str, stored: Any, like: Any) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in flat}

    stored, wanted = shapes(getattr(stored, "tree", stored)), shapes(like)
    for name in sorted(stored.keys() ^ wanted.keys()):
        side = "only in the checkpoint" if name in stored else "only in this config's model"
        raise ConfigError(f"{where}: {name!r} is {side}: it is a checkpoint of another config")
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise ConfigError(f"{where}: {name!r} has shape {stored[name]}, this config's model wants {shape}")
