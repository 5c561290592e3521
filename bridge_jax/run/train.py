"""The loop: every stage of a config in order, resumed wherever the workdir stopped. And nothing else.

Per step, in this order: maybe checkpoint (the state before the step), maybe evaluate it, draw, dispatch, and only then
read the metrics of the previous step. Reading one step late lets the device compute while the host draws; saving before
evaluating lets a run that is stopped meanwhile lose nothing, and the score is put into the checkpoint afterwards.

What changes the state or reads it once more is done inside `stop.busy`; everything else may be cut short by a signal.
"""

import contextlib
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bridge_jax.config import Config, evaluators, objectives
from bridge_jax.data import pipeline, text
from bridge_jax.run import bad_step, lower_cache, origin, terminal
from bridge_jax.run.stop import Stop
from bridge_jax.step import sharding, train_step
from bridge_jax.step.predict import Predict, build_predict
from bridge_jax.step.start import start_fused
from bridge_jax.step.train_step import StageStep, TrainState
from bridge_jax.types import Batch, Params
from bridge_jax.workdir import lock
from bridge_jax.workdir.broken_log import BrokenLog
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.lock import WorkdirBusyError
from bridge_jax.workdir.log import RunLog
from bridge_jax.workdir.meta import STAGE
from bridge_jax.workdir.outcome import Outcome


def run(cfg: Config, workdir: str, stop: Stop | None = None) -> dict[str, float]:
    """Train all stages, evaluate the best checkpoint on every split, and return the metrics of the last table.

    Raises ConfigError or WorkdirBusyError before anything is written where the config, the data or the workdir cannot
    work, FloatingPointError naming the step and the first bad tensor when a number is not finite, and StorageError when
    a checkpoint cannot be saved or read. Without `stop` signals do what they always do.
    """
    if stop is None:
        with Outcome(workdir) as outcome:
            return run(cfg, workdir, Stop(outcome))
    lock.refuse_if_taken(stop.outcome.folder)
    mesh = sharding.make_mesh(cfg.mesh)
    ends = np.cumsum([cfg.stages[name].steps for name in cfg.stage_order]).tolist()
    records = pipeline.open_training(cfg.data)
    text.load(cfg.data, cfg.text)
    evaluators.check(cfg)
    plans = [
        train_step.build(cfg, name, end - cfg.stages[name].steps, mesh)
        for name, end in zip(cfg.stage_order, ends, strict=True)
    ]
    saves = Checkpoints(workdir, cfg.checkpoint.keep_last, frozen=origin.frozen_towers(cfg, plans))
    scored = [kind for kind in cfg.evals if evaluators.settings(cfg, kind).splits]
    watchers = [objectives.evaluator_of(cfg.stages[name]) for name in cfg.stage_order]
    predicts = {kind: build_predict(cfg, mesh, kind) for kind in {*watchers, *scored}}  # traced once for a run
    with contextlib.closing(saves):
        step = saves.latest() or 0
        params = origin.resume(cfg, saves, step, mesh) if step else origin.initial(cfg, mesh)
        # Compiled programs are kept beside the cached states, so that going on costs no second compilation.
        jax.config.update("jax_compilation_cache_dir", str(Path(cfg.cache_dir).resolve() / "xla"))
        stop.together = jax.process_count() > 1
        stop.outcome.begin(writes=jax.process_index() == 0)
        if (saves.latest() or 0) != step:
            raise WorkdirBusyError(f"--workdir {workdir!r}: another run has just saved there; start again")
        broken = BrokenLog(stop.outcome.folder, step, records, cfg.data.broken_limit)
        with RunLog(workdir, resume_step=step) as log, stop.watchdog(cfg.watchdog_secs):
            for index, (plan, end) in enumerate(zip(plans, ends, strict=True)):
                if step < end or (step == end and not saves.scores(step)):  # killed before its last state was scored
                    stage = _Stage(cfg, index, plan, mesh, predicts[watchers[index]], saves, log, stop, broken)
                    params = stage.run(params, step, end)
                    step = end
            final = {kind: evaluators.build(kind, cfg, predicts[kind]) for kind in scored}
            return _finish(cfg, final, saves, log, params, step, stop)


class _Stage:
    """One stage of a run: its state, its data, what it says."""

    def __init__(
        self,
        cfg: Config,
        index: int,
        plan: StageStep,
        mesh: Mesh,
        predict: Predict,
        saves: Checkpoints,
        log: RunLog,
        stop: Stop,
        broken: BrokenLog,
    ) -> None:
        self.cfg, self.index, self.plan, self.mesh, self.saves, self.log = cfg, index, plan, mesh, saves, log
        self.predict = predict
        self.stop, self.spending, self.broken = stop, stop.outcome.spending, broken
        self.asked = 0  # the signal that one of the hosts has got, as all know by now
        self.name = cfg.stage_order[index]
        self.stage = cfg.stages[self.name]
        self.watcher = objectives.evaluator_of(self.stage)
        frozen = self.stage.cached_crops > 0
        self.evaluator = evaluators.build(self.watcher, cfg, predict, lower_frozen=frozen)
        self.fused_was_trained = origin.fused_was_trained(cfg, index)

    def run(self, params: Params, step: int, end: int) -> Params:
        """Train from `step` to `end` and return the parameters."""
        start, stop = end - self.stage.steps, self.stop
        stop.outcome.stage, stop.outcome.step = self.name, step
        state = self._state(params, step, start)
        saved = self.saves.latest()
        with (
            terminal.progress() as bar,
            contextlib.closing(self._data(params, step, start, bar)) as batches,
            stop.keeping(),
            self.spending("train"),
        ):
            meter = terminal.Meter(bar, self.name, step, start, end, self.stage.batch_size)
            pending = compiled = None
            for now in range(step, end + 1):
                due = self._due(now, start, end)
                if now not in (start, saved) and (due or now % self.cfg.checkpoint.every_steps == 0):
                    with stop.busy():
                        state, pending = self._read(pending, state, meter), None  # none with a bad number is saved
                        with meter.paused():
                            self._save(now, state)
                        stop.keep(self.saves.wait)
                if self.asked:
                    self._leave(now, state, pending, meter)
                if due and not (now == saved and self.saves.scores(now)):
                    with meter.paused(), self.spending("evaluate"):
                        self._evaluate(state.params, now, bar)
                if now == end:
                    break
                with meter.waiting(), self.spending("data"):
                    drawn = next(batches)
                    batch = sharding.put_batch(dataclasses.replace(drawn, broken=None), self.mesh)
                if compiled is None:
                    with self.spending("compile"):
                        compiled = self.plan.compiled(state, batch)
                with stop.busy():
                    stop.keep(None)
                    self.saves.check()
                    after, metrics = compiled(state, batch)
                    state = self._read(pending, after, meter)
                    if state is not after:  # the step before was bad, so this one has changed nothing
                        state, metrics = compiled(state, batch)
                    told = sharding.tell_all(drawn.broken, stop.asked, metrics["healthy"], self.mesh)
                    pending = _Pending(now + 1, batch, metrics, told)
                    stop.outcome.step = now + 1
                    if jax.process_count() == 1:  # else all have to save the same step
                        stop.keep(partial(self._save_and_wait, now + 1, state, pending, meter))
        return state.params

    def _state(self, params: Params, step: int, start: int) -> TrainState:
        if step > start:
            state = self.plan.init(jnp.int32(step), params)
            return dataclasses.replace(state, opt_state=self.saves.restore_opt_state(step, state.opt_state))
        if objectives.trains_fused(self.cfg.stages[self.name]) and not self.fused_was_trained:
            params = start_fused(self.cfg, params)
        return self.plan.init(jnp.int32(step), params)

    def _save(self, step: int, state: TrainState) -> None:
        trained = self.fused_was_trained or objectives.trains_fused(self.cfg.stages[self.name])
        with self.spending("save"):
            known = origin.answers(self.cfg)
            self.saves.save(
                step, self.name, state.params, state.opt_state, self.cfg, fused_trained=trained, answers=known
            )
            self.log.write(step, self.stop.outcome.shares())
            self.stop.outcome.write()

    def _leave(self, step: int, state: TrainState, pending: "_Pending | None", meter: terminal.Meter) -> None:
        """End the run because a host was asked to, as all hosts do at this step."""
        with self.stop.busy():
            self.stop.agree(self.asked)
            if pending is not None:
                self._save_and_wait(step, state, pending, meter)
            self.stop.keep(self.saves.wait)
        self.stop.wait_for_the_end()

    def _save_and_wait(self, step: int, state: TrainState, pending: "_Pending", meter: terminal.Meter) -> None:
        self._save(step, self._read(pending, state, meter))
        self.saves.wait()

    def _data(self, params: Params, step: int, start: int, bar: terminal.Progress) -> Any:
        make = None
        if self.stage.cached_crops:
            predict = self.predict
            with terminal.task(bar, "lower states to disk") as progress, self.spending("data"):
                watched = self.stop.watched(progress)
                make = lower_cache.open_or_fill(
                    self.cfg, self.stage, params, predict.lower_image, predict.lower_text, watched, predict.rows
                )
        ds = pipeline.train(
            self.cfg,
            self.stage,
            seed_stream=self.name,
            rows=sharding.host_rows(self.stage.batch_size, self.mesh),
            make_example=make,
        )
        return pipeline.batches(ds, step - start, self.cfg.data)

    def _due(self, step: int, start: int, end: int) -> bool:
        return step == end or (
            step > start and (step - start) % evaluators.settings(self.cfg, self.watcher).every_steps == 0
        )

    def _evaluate(self, params: Params, step: int, bar: terminal.Progress) -> None:
        """Let the stage's evaluator score held-out data, by which the best checkpoint is chosen."""
        with terminal.task(bar, "evaluating") as progress:
            metrics = self.evaluator.watch(params, self.stop.watched(progress))
        self.log.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        terminal.say(f"step {step} {self.name}: {self.evaluator.summary(metrics)}")
        with self.stop.busy():
            self.saves.score(step, {STAGE: float(self.index), **self.evaluator.score(metrics)})

    def _read(self, pending: "_Pending | None", state: TrainState, meter: terminal.Meter) -> TrainState:
        """Log what a step computed and met. Return the state to go on with: `state`, unless the step was bad.

        Then `state` is the one that it began with, and what is returned has left it out. Raises FloatingPointError
        where it may not be left out, and ConfigError where too much of the data is broken.
        """
        if pending is None:
            return state
        step, metrics = pending.step, jax.device_get(pending.metrics)
        broken, asked = jax.device_get(pending.told)
        self.asked = self.asked or int(asked)
        for line in self.broken.take(step, self.name, broken):
            terminal.say(f"step {step}: another example in place of {line}")
        meter.advance(step, float(metrics["loss"]))
        self.stop.alive()
        if not metrics.pop("healthy"):
            first_bad, workdir = self.plan.first_bad(state, pending.batch), self.stop.outcome.folder
            line = bad_step.keep(workdir, self.cfg, self.name, step, state, pending.batch, first_bad, metrics)
            bad_step.check_budget(workdir, self.cfg.bad_steps, step, line)
            terminal.say(line)
            metrics = {"skipped": 1.0}
            whole = sharding.replicated(self.mesh)
            onward = dict(step=jax.device_put(np.int32(step), whole), healthy=jax.device_put(np.bool_(True), whole))
            state = dataclasses.replace(state, **onward)
        elif step % self.cfg.log_every_steps:
            return state
        rates = meter.rates() | {"train/broken_data": float(self.broken.count)}
        self.log.write(step, {f"train/{name}": value for name, value in metrics.items()} | rates)
        return state


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step that was dispatched and not read yet."""

    step: int  # counted from 1
    batch: Batch
    metrics: Any
    told: Any  # what all hosts told: the broken records of the batch, the signal that one of them has got


def _finish(
    cfg: Config, built: dict[str, Any], saves: Checkpoints, log: RunLog, params: Params, step: int, stop: Stop
) -> dict[str, float]:
    """Evaluate the best checkpoint on every split of every evaluator, and print the tables."""
    best = saves.best()
    if best is not None and best != step:
        params = saves.restore_params(best, params)
    everything: dict[str, float] = {}
    stop.outcome.step = step
    for name, split in ((kind, split) for kind in built for split in evaluators.settings(cfg, kind).splits):
        started = time.monotonic()
        with (
            terminal.progress() as bar,
            terminal.task(bar, f"evaluating {split}") as progress,
            stop.outcome.spending("evaluate"),
        ):
            metrics = built[name].final(params, split, stop.watched(progress))
        title = f"{cfg.data.dataset}/{split}, step {best}"
        terminal.table(evaluators.find(name).table(metrics), title, time.monotonic() - started)
        everything |= {f"{split}/{name}": value for name, value in metrics.items()}
    log.write(step, {f"final/{name}": value for name, value in everything.items()})
    terminal.say(f"checkpoints, metrics.jsonl and tensorboard are in {Path(saves.folder).parent}")
    return everything
