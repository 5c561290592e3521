"""Benchmark the cost of losing nothing: python -m tools.bench_save --config=configs/shapes.py --stage=stabilise

Prints four figures of this machine:

- the time of a step in a bare loop, which only draws a batch and steps;
- the time that the training loop adds to it (locks, metrics, log, broken records, hosts);
- the time for which a save holds the loop;
- the time that one save adds to a run. On a CPU, hashing and writing compete with the step for the processor.

Rounds of the three loops alternate, and medians are compared. Run nothing else on the machine meanwhile, and use the
disk that you save to.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from rich.console import Console

from bridge_jax.config import Checkpoint, Config, ConfigError, nearest, objectives
from bridge_jax.data import pipeline
from bridge_jax.run import command_line, lower_cache, origin, stop, train
from bridge_jax.step import sharding, train_step
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import broken_log
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.log import RunLog
from bridge_jax.workdir.outcome import Outcome
from tools import figures

_CONFIG = command_line.define_config()
_STAGE = flags.DEFINE_string("stage", None, "Stage whose step to time.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps in a round.", lower_bound=4)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds for each loop.", lower_bound=1)
_FOLDER = flags.DEFINE_string(
    "folder", None, "Folder in which the timed run saves; the system's temporary folder without it."
)
_NEVER = 10**9
_console = Console(soft_wrap=True, highlight=False)


class _Unscored(train.StageLoop):
    """The training loop without evaluations. `ends` has the time at which each step but the last was read."""

    ends: list[float]

    def _due(self, step: int, start: int, end: int) -> bool:
        return False

    def _read(self, pending: Any, *arguments: Any) -> Any:
        state = super()._read(pending, *arguments)
        if pending is not None:
            self.ends.append(time.perf_counter())
        return state


def lengths(ends: Sequence[float]) -> list[float]:
    """Return the seconds between the ends of neighbouring steps, which leaves out the start of the loop."""
    return [after - before for before, after in itertools.pairwise(ends)]


def bare_loop(cfg: Config, name: str, count: int) -> Callable[[], list[float]]:
    """Return a function that draws, puts and steps, and times `count` steps after a first one."""
    mesh, stage = sharding.make_mesh(cfg.mesh), cfg.stages[name]
    stage_step, params, make = train_step.build(cfg, cfg.stages[name], 0, mesh), origin.initial(cfg, mesh), None
    if stage.cached_crops:
        predict = build_predict(cfg, mesh)
        make = lower_cache.open_or_fill(cfg, stage, params, predict, lambda *_: None)
    ds = pipeline.train(cfg, stage, seed_stream=name, make_example=make)

    def run() -> list[float]:
        state = stage_step.init(jnp.int32(0), jax.tree.map(jnp.copy, params))
        batches, before, ends = pipeline.batches(ds, 0, cfg.data), None, []
        for batch in itertools.islice(batches, count + 1):
            state, metrics = stage_step.train_step(state, sharding.put_batch(batch, mesh))
            if before is not None:  # keeps the queue as short as in training
                jax.block_until_ready(before)
                ends.append(time.perf_counter())
            before = metrics
        jax.block_until_ready(state)
        ends.append(time.perf_counter())
        batches.close()
        return lengths(ends)

    return run


def real_loop(
    cfg: Config, name: str, count: int, saves: bool, folder: Path, blocked: list[float]
) -> Callable[[], list[float]]:
    """Return a function that times `count` steps of training after a first one, with one save in the middle if `saves`.

    It appends to `blocked` the seconds for which the save held the loop.
    """
    every = count // 2 + 1 if saves else _NEVER  # once
    cfg = dataclasses.replace(
        cfg,
        stages={**cfg.stages, name: dataclasses.replace(cfg.stages[name], steps=count + 1)},
        stage_order=(name,),
        checkpoint=Checkpoint(every_steps=every, keep_last=1),
    )
    mesh = sharding.make_mesh(cfg.mesh)
    stage_step, params = train_step.build(cfg, cfg.stages[name], 0, mesh), origin.initial(cfg, mesh)
    predict = build_predict(cfg, mesh, objectives.evaluator_of(cfg.stages[name]))
    records = pipeline.open_split(cfg.data, cfg.data.train_split)

    def run() -> list[float]:
        with tempfile.TemporaryDirectory(dir=folder) as workdir, Outcome(workdir) as outcome:
            outcome.begin()
            checkpoints = Checkpoints(workdir, 1, frozen=origin.frozen_towers(cfg, [stage_step]))
            broken = broken_log.BrokenLog(Path(workdir), 0, records, cfg.data.broken_limit)
            with RunLog(workdir, resume_step=0) as log:
                run = train.Run(cfg, mesh, checkpoints, log, stop.Stop(outcome), broken, data="")
                loop = _Unscored(run, cfg.run_stages[0], stage_step, predict)
                loop.ends = []
                jax.block_until_ready(loop.run(jax.tree.map(jnp.copy, params), 0, 0))
                loop.ends.append(time.perf_counter())
                blocked.append(outcome.secs.get("save", 0.0))
                checkpoints.close()
        return lengths(loop.ends)

    return run


def main(argv: list[str]) -> None:
    """Time the three loops in turn and print the comparison."""
    del argv
    cfg, name, count = command_line.read_config(_CONFIG), command_line.required(_STAGE), _STEPS.value
    if name not in cfg.stages:
        raise ConfigError(f"--stage: {name!r} is unknown; {nearest(name, cfg.stages)}")
    folder = Path(_FOLDER.value or tempfile.gettempdir())
    blocked: list[float] = []
    loops = {
        "bare": bare_loop(cfg, name, count),
        "training": real_loop(cfg, name, count, False, folder, []),
        "saving": real_loop(cfg, name, count, True, folder, blocked),
    }
    times: dict[str, list[list[float]]] = {loop: [] for loop in loops}
    for number in range(_ROUNDS.value + 1):
        for loop, run in loops.items():
            secs = run()
            if number:  # the first round compiles and warms caches
                times[loop].append(secs)
    # A busy moment lengthens a few steps, so take the median step of each round and compare neighbouring rounds.
    bare, training = ([statistics.median(secs) for secs in times[loop]] for loop in ("bare", "training"))
    costs = sorted(100 * (t - b) / b for b, t in zip(bare, training, strict=True))
    step, held = statistics.median(training), statistics.median(blocked[1:])
    stall = statistics.median(
        sum(saving) - sum(plain) for saving, plain in zip(times["saving"], times["training"], strict=True)
    )
    _console.print(f"a step of {name}: {1000 * statistics.median(bare):.1f} ms bare, {1000 * step:.1f} ms in training")
    _console.print(
        f"losing nothing costs {statistics.median(costs):+.1f} % of throughput "
        f"(rounds: {costs[0]:+.1f} to {costs[-1]:+.1f})"
    )
    _console.print(f"a save holds the loop for {1000 * held:.0f} ms = {held / step:.2f} steps")
    _console.print(f"a run with one save takes {1000 * stall:.0f} ms = {stall / step:.2f} steps longer")
    plain, took = 1000 * statistics.median(bare), 1000 * step
    figures.keep(f"ms of a step of {name} in training", took, figures.LESS, "a bare loop", plain)
    figures.keep("ms for which a save holds the loop", 1000 * held, figures.LESS, f"a step of {name}", took)
    _console.print(f"medians of {_ROUNDS.value} rounds of {count} steps")


if __name__ == "__main__":
    command_line.run(main)
