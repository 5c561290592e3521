"""One cell of a grid: a row with one seed, trained and scored, and the JSON that is left of it.

    OUT/cells/NAME.json    the result, written once and as a whole
    OUT/workdirs/NAME-...  its workdir while it trains, named by the code and the data too

NAME is a hash of the experiment with its seed, without the keys that say where and how fast it runs. So two grids that
share a cell run it once. The last checkpoint is scored: the number of pairs is the budget, and nothing is chosen.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError, as_json, evaluators, objectives
from bridge_jax.config.as_json import as_dict
from bridge_jax.data import pipeline, text
from bridge_jax.data.records import run_fingerprint
from bridge_jax.evals import retrieval
from bridge_jax.evals.scores import recall
from bridge_jax.run import distributed, ranking, terminal, train
from bridge_jax.run.stop import Stop
from bridge_jax.step import leak_probe, optim, sharding
from bridge_jax.step.params import abstract_params, param_shapes
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import atomic, lock, provenance
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.outcome import FILE, Outcome
from tools.ablation.rows import Row, beyond_towers

# Where and how fast a cell runs, not what it computes.
PLACES = ("cache_dir", "data.data_dir", "data.workers", "data.threads", "data.prefetch_batches", "log_every_steps",
          "watchdog_secs", "checkpoint")  # fmt: skip

KEYS = ("name", "code", "commit", "data", "device", "pairs", "seconds", "leak_probe", "splits")  # that a page reads


class Cell(NamedTuple):
    """A row with one seed. `cfg` is the row's experiment with that seed."""

    row: Row
    seed: int
    cfg: Config
    name: str


def cells(rows: list[Row], seeds: list[int]) -> list[Cell]:
    """Return every row with every seed, the first seed of all rows first. Raises ConfigError where two are alike."""
    found = []
    for seed in seeds:
        for row in rows:
            cfg = dataclasses.replace(row.cfg, seed=seed)
            found.append(Cell(row, seed, cfg, name_of(cfg)))
    for one, other in itertools.pairwise(found):
        if one.name == other.name:
            raise ConfigError(f"the rows {one.row.name!r} and {other.row.name!r} are the same experiment")
    return found


def name_of(cfg: Config) -> str:
    """Return the hash of what an experiment computes."""
    plain = as_dict(cfg)
    for key in PLACES:
        *sections, last = key.split(".")
        section = plain
        for name in sections:
            section = section[name]
        del section[last]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def check(cfg: Config) -> None:
    """Raise ConfigError where an experiment is not scored by retrieval, or its rules or its data do not fit."""
    known = paths.every(param_shapes(cfg))
    for stage in cfg.run_stages:
        if (name := objectives.evaluator_of(stage)) != "retrieval":
            raise ConfigError(
                f"config.stages.{stage.name} is scored by {name}; tools.ablate compares retrieval: give an experiment "
                "on retrieval"
            )
        optim.trainable_paths(cfg, stage, known)
        optim.optimizer(cfg, stage, known)
    evaluators.check(cfg)
    text.load(cfg.data, cfg.text)
    ranking.check(cfg, len(pipeline.open_training(cfg.data)))
    if not evaluators.settings(cfg, "retrieval").splits:
        raise ConfigError("config.evals.retrieval.splits is empty: name the splits that the cells are scored on")


def path_of(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def workdir_of(out: Path, cell: Cell) -> Path:
    """Return the folder that a cell trains in. No cell goes on with what other code, or other data, trained."""
    return out / "workdirs" / f"{cell.name}-{distributed.code()[:6]}-{run_fingerprint(cell.cfg)[:6]}"


def read(path: Path) -> dict[str, Any]:
    """Return the record of a cell. Raises ConfigError where the file is none."""
    try:
        record = as_json.loads(path.read_text(encoding="utf-8"))
        lacks = [key for key in KEYS if key not in record]
        fault = f"it lacks {', '.join(lacks)}" if lacks else f"it is the cell {record['name']}"
        if not lacks and record["name"] == path.stem:
            return record
    except (ValueError, TypeError) as error:
        fault = str(error)
    raise ConfigError(f"{path}: expected a cell of tools.ablate ({fault}); move the file away")


def run(cell: Cell, out: Path, grid: str, *, keep_workdir: bool) -> Path:
    """Train a cell and score it, or go on where it was killed, and return its file.

    The leak probe comes first, as an experiment that cannot be probed should not train for hours. Raises the errors of
    `train.run`, and ConfigError where the code changed meanwhile.
    """
    code, data, workdir = distributed.code(), run_fingerprint(cell.cfg), workdir_of(out, cell)
    lock.refuse_if_taken(workdir)
    started = time.monotonic()
    probed = leak_probe.probe(cell.cfg)
    probe_secs = time.monotonic() - started
    with Outcome(workdir) as outcome, Stop(outcome) as stop:
        train.run(_unscored(cell.cfg), str(workdir), stop)
    started = time.monotonic()
    splits = _score(cell.cfg, workdir)
    spent = as_json.loads((workdir / FILE).read_text(encoding="utf-8"))["secs"]
    seconds = {**spent, "probe": round(probe_secs, 3), "score": round(time.monotonic() - started, 3)}
    if (distributed.code(), run_fingerprint(cell.cfg)) != (code, data):
        raise ConfigError(f"code or data changed while cell {cell.name} ran, which begins again: change nothing then")
    record = {
        "name": cell.name,
        "row": cell.row.name,
        "grid": grid,
        "seed": cell.seed,
        "command": shlex.join(["python", "-m", "tools.ablate", *sys.argv[1:]]),
        "notes": cell.row.notes,
        "code": code,
        **provenance.commit(),
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "data": data,
        "pairs": sum(stage.steps * stage.batch_size for stage in cell.cfg.run_stages),
        "parameters_beyond_towers": beyond_towers(cell.cfg),
        "seconds": seconds,
        "leak_probe": {name: count._asdict() for name, count in probed.items()},
        "splits": splits,
        "config": as_dict(cell.cfg),
    }
    path = path_of(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, _dumps(record))
    if not keep_workdir:
        atomic.remove(workdir)
    return path


def total_secs(record: Mapping[str, Any]) -> float:
    """Return the seconds that a cell worked, without those between two processes."""
    return sum(value for name, value in record["seconds"].items() if name != "down")


def _unscored(cfg: Config) -> Config:
    """Return the experiment without the evaluations of a run: the cell scores the last checkpoint itself."""
    steps, evals = sum(stage.steps for stage in cfg.run_stages), {}
    for name, settings in cfg.evals.items():
        there = {field.name for field in dataclasses.fields(settings)}
        quiet = {"every_steps": steps + 1, "splits": ()}
        evals[name] = dataclasses.replace(settings, **{key: value for key, value in quiet.items() if key in there})
    return dataclasses.replace(cfg, evals=evals)


def _score(cfg: Config, workdir: Path) -> dict[str, Any]:
    """Return the ranks of every split by the last checkpoint, with their photos, and the recalls."""
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose("latest")
    mesh = sharding.make_mesh(cfg.mesh)
    params = saves.restore_params(step, abstract_params(cfg, mesh))
    evaluator = retrieval.Evaluator(cfg, build_predict(cfg, mesh))
    found = {}
    with terminal.progress() as bar, terminal.task(bar, "scoring") as progress:
        fitted = evaluator.fit(params, progress)
        for split in evaluators.settings(cfg, "retrieval").splits:
            ranks = evaluator.ranks(params, split, progress)
            photos = {name.split("/")[1]: ids.tolist() for name, (_, ids) in ranks.items()}
            found[split] = {
                **fitted,
                "photos": len(pipeline.open_split(cfg.data, split)),
                "recalls": {name: recall.summary(each) for name, (each, _) in ranks.items()},
                "photo_of_query": photos,
                "ranks": {name: each.tolist() for name, (each, _) in ranks.items()},
            }
    return found


def _dumps(record: dict[str, Any]) -> str:
    """Return JSON with every list of numbers on one line."""
    text = json.dumps(record, indent=1, allow_nan=False)
    return re.sub(r"\[[\s\d,]+\]", lambda match: re.sub(r"\s+", "", match[0]), text) + "\n"
