"""The training loop: run every stage of a config in order, and resume where the workdir stopped.

Each step, in this order: maybe save the state before the step, maybe evaluate it, draw a batch, dispatch the step, and
only then read the metrics of the previous step. Reading one step late lets the device compute while the host draws.
Saving before evaluating loses nothing if the evaluation is stopped; its score is added to the checkpoint afterwards.

Code that changes the state, or reads it again, runs inside `stop.busy`. A signal may interrupt everything else.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax.config import Config, Stage, evaluators, objectives
from bridge_jax.config.as_json import as_dict
from bridge_jax.data import pipeline, text
from bridge_jax.data.records import run_fingerprint, training_fingerprint
from bridge_jax.run import bad_step, origin, ranking, terminal
from bridge_jax.run.finish import Run, finish
from bridge_jax.run.stage_data import StageData
from bridge_jax.run.stop import Stop
from bridge_jax.step import sharding, train_step
from bridge_jax.step.predict import Predict, build_predict
from bridge_jax.step.start import start_fused
from bridge_jax.step.train_step import StageStep, TrainState
from bridge_jax.types import Batch, Params
from bridge_jax.workdir import lock, provenance, tracking
from bridge_jax.workdir.broken_log import BrokenLog
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.lock import WorkdirBusyError
from bridge_jax.workdir.log import RunLog
from bridge_jax.workdir.meta import STAGE
from bridge_jax.workdir.outcome import Outcome


def run(cfg: Config, workdir: str, stop: Stop | None = None) -> dict[str, float]:
    """Train all stages, evaluate the best checkpoint on every split, and return the metrics of the tables.

    Raises ConfigError or WorkdirBusyError, before anything is written, if the config, the data or the workdir cannot
    work; FloatingPointError, naming the step and the first bad tensor, if a number is not finite; and StorageError if a
    checkpoint cannot be saved or read. Without `stop`, signals are not caught.
    """
    if stop is None:
        with Outcome(workdir) as outcome:
            return run(cfg, workdir, Stop(outcome))
    lock.refuse_if_taken(stop.outcome.folder)
    tracking.check(cfg.trackers)
    mesh = sharding.make_mesh(cfg.mesh)
    records = pipeline.open_training(cfg.data)
    text.load(cfg.data, cfg.text)
    evaluators.check(cfg)
    ranking.check(cfg, len(records))
    ends = np.cumsum([stage.steps for stage in cfg.run_stages]).tolist()
    starts = [end - stage.steps for stage, end in zip(cfg.run_stages, ends, strict=True)]
    stage_steps = [train_step.build(cfg, *stage, mesh) for stage in zip(cfg.run_stages, starts, strict=True)]
    saves = Checkpoints(workdir, cfg.checkpoint.keep_last, frozen=origin.frozen_towers(cfg, stage_steps))
    final = [name for name in cfg.evals if evaluators.settings(cfg, name).splits]
    choosing = {objectives.evaluator_of(stage) for stage in cfg.run_stages}  # the evaluators that choose checkpoints
    predicts = {name: build_predict(cfg, mesh, name) for name in {*choosing, *final}}  # traced once for a run
    with contextlib.closing(saves):
        now = saves.latest() or 0
        params = origin.resume(cfg, saves, now, mesh) if now else origin.initial(cfg, mesh)
        train_step.keep_programs(cfg)  # a resumed run compiles nothing again
        stop.multihost = jax.process_count() > 1
        stop.outcome.begin(writes=jax.process_index() == 0)
        if (saves.latest() or 0) != now:
            raise WorkdirBusyError(f"--workdir {workdir!r}: another run has just saved a checkpoint there; start again")
        if jax.process_index() == 0:
            provenance.write(stop.outcome.folder, now, run_fingerprint(cfg))
        broken = BrokenLog(stop.outcome.folder, now, records, cfg.data.broken_limit)
        with RunLog(workdir, now, cfg.trackers, as_dict(cfg)) as log, stop.watchdog(cfg.watchdog_secs):
            shared = Run(cfg, mesh, saves, log, stop, broken, training_fingerprint(cfg.data))
            for stage, stage_step, start, end in zip(cfg.run_stages, stage_steps, starts, ends, strict=True):
                if now < end or (now == end and not saves.scores(now)):  # killed before its last state was scored
                    loop = StageLoop(shared, stage, stage_step, predicts[objectives.evaluator_of(stage)])
                    params = loop.run(params, now, start)
                    now = end
            final_evaluators = {name: evaluators.build(name, cfg, predicts[name]) for name in final}
            return finish(shared, final_evaluators, params, now)


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step that was dispatched, but whose metrics were not read yet."""

    step: int  # counted from 1
    batch: Batch
    metrics: Any
    from_hosts: Any  # gathered from all hosts: the batch's broken records, and the signal that a host received


class StageLoop:
    """The loop of one stage: save, evaluate, draw, step, log."""

    def __init__(self, run: Run, stage: Stage, stage_step: StageStep, predict: Predict) -> None:
        self.cfg, self.mesh, self.saves, self.log = run.cfg, run.mesh, run.saves, run.log
        self.stop, self.spending, self.broken = run.stop, run.stop.outcome.spending, run.broken
        self.trained_on = run.data
        self.stage, self.stage_step, self.predict = stage, stage_step, predict
        self.signal = 0  # the signal that a host received, once all hosts know of it
        self.index = self.cfg.stage_order.index(stage.name)
        self.fused_was_trained = origin.fused_was_trained(self.cfg, self.index)
        name, frozen = objectives.evaluator_of(stage), stage.cached_crops > 0
        self.evaluator = evaluators.build(name, self.cfg, predict, lower_frozen=frozen)
        self.every_steps = evaluators.settings(self.cfg, name).every_steps
        self.data = StageData(self.cfg, stage, self.mesh, predict, self.saves, self.stop)

    def run(self, params: Params, first: int, start: int) -> Params:
        """Train from step `first` to the end of the stage, which begins at step `start`. Return the parameters."""
        stop, end = self.stop, start + self.stage.steps
        stop.outcome.stage, stop.outcome.step = self.stage.name, first
        state = self._state(params, first, start)
        saved = self.saves.latest()
        with (
            terminal.progress() as bar,
            contextlib.ExitStack() as reading,
            stop.keeping(),
            self.spending("train"),
        ):
            meter = terminal.Meter(bar, self.stage.name, first, start, end, self.stage.batch_size)
            pending = compiled = batches = None
            for now in range(first, end + 1):
                due = self._due(now, start, end)
                if now not in (start, saved) and (due or now % self.cfg.checkpoint.every_steps == 0):
                    with stop.busy():
                        state, pending = self._read(pending, state, meter), None  # after a bad step: the state before
                        with meter.paused():
                            self._save(now, state)
                        stop.keep(self.saves.wait)
                if self.signal:
                    self._leave(now, state, pending, meter)
                if due and not (now == saved and self.saves.scores(now)):
                    with meter.paused(), self.spending("evaluate"):
                        self._evaluate(state.params, now, bar)
                if now == end:
                    break
                if batches is None or self.data.stale(now - start):
                    state, pending = self._settle(now, state, pending, meter), None
                    reading.close()
                    with meter.paused():
                        batches = self.data.batches(state.params, start, now - start, bar)
                    reading.enter_context(contextlib.closing(batches))
                with meter.waiting(), self.spending("data"):
                    drawn = next(batches)
                    batch = sharding.put_batch(dataclasses.replace(drawn, broken=None), self.mesh)
                if compiled is None:
                    with self.spending("compile"):
                        compiled = self.stage_step.compiled(state, batch)
                with stop.busy():
                    stop.keep(None)
                    self.saves.check()
                    after, metrics = compiled(state, batch)
                    state = self._read(pending, after, meter)
                    if state is not after:  # the previous step was bad, so this one changed nothing
                        state, metrics = compiled(state, batch)
                    from_hosts = sharding.gather_hosts(drawn.broken, stop.signal, metrics["healthy"], self.mesh)
                    pending = _Pending(now + 1, batch, metrics, from_hosts)
                    stop.outcome.step = now + 1
                    if jax.process_count() == 1:  # several hosts have to agree on the step that they save
                        stop.keep(partial(self._save_and_wait, now + 1, state, pending, meter))
        return state.params

    def _due(self, step: int, start: int, end: int) -> bool:
        """Return whether to save and evaluate the state before `step`."""
        return step == end or (step > start and (step - start) % self.every_steps == 0)

    def _state(self, params: Params, step: int, start: int) -> TrainState:
        if step > start:
            state = self.stage_step.init(jnp.int32(step), params)
            return dataclasses.replace(state, opt_state=self.saves.restore_opt_state(step, state.opt_state))
        if objectives.trains_fused(self.stage) and not self.fused_was_trained:
            params = start_fused(self.cfg, params)
        return self.stage_step.init(jnp.int32(step), params)

    def _settle(self, step: int, state: TrainState, pending: _Pending | None, meter: terminal.Meter) -> TrainState:
        """Read the previous step, if that is still to be done, and keep the state that it left."""
        if pending is None:
            return state
        with self.stop.busy():
            state = self._read(pending, state, meter)
            if jax.process_count() == 1:
                self.stop.keep(partial(self._save_and_wait, step, state, None, meter))
        return state

    def _evaluate(self, params: Params, step: int, bar: terminal.Progress) -> None:
        """Score held-out data with the stage's evaluator. The score chooses the best checkpoint."""
        with terminal.task(bar, "evaluating") as progress:
            metrics = self.evaluator.watch(params, self.stop.watched(progress))
        self.log.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        terminal.say(f"step {step} {self.stage.name}: {self.evaluator.summary(metrics)}")
        with self.stop.busy():
            self.saves.score(step, {STAGE: float(self.index), **self.evaluator.score(metrics)})

    def _save(self, step: int, state: TrainState) -> None:
        trained = self.fused_was_trained or objectives.trains_fused(self.stage)
        with self.spending("save"):
            about = {"answers": origin.answers(self.cfg), "data": self.trained_on}
            self.saves.save(
                step, self.stage.name, state.params, state.opt_state, self.cfg, fused_trained=trained, **about
            )
            self.log.write(step, self.stop.outcome.shares())
            self.stop.outcome.write()

    def _save_and_wait(self, step: int, state: TrainState, pending: _Pending | None, meter: terminal.Meter) -> None:
        self._save(step, self._read(pending, state, meter))
        self.saves.wait()

    def _leave(self, step: int, state: TrainState, pending: _Pending | None, meter: terminal.Meter) -> None:
        """End the run because a host received a signal. All hosts do so at this step."""
        with self.stop.busy():
            self.stop.agree(self.signal)
            if pending is not None:
                self._save_and_wait(step, state, pending, meter)
            self.stop.keep(self.saves.wait)
        self.stop.wait_for_the_end()

    def _read(self, pending: _Pending | None, state: TrainState, meter: terminal.Meter) -> TrainState:
        """Log the previous step and return the state to continue from.

        After a bad step, this is the state before it with the step number advanced. Raises FloatingPointError if the
        bad step may not be skipped, and ConfigError if too much of the data is broken.
        """
        if pending is None:
            return state
        step, metrics = pending.step, jax.device_get(pending.metrics)
        broken, signal = jax.device_get(pending.from_hosts)
        self.signal = self.signal or int(signal)
        for line in self.broken.take(step, self.stage.name, broken):
            terminal.say(f"step {step}: replaced a broken example, {line}")
        meter.advance(step, float(metrics["loss"]))
        self.stop.alive()
        if not metrics.pop("healthy"):
            state, metrics = self._skip(pending, state, metrics), {"skipped": 1.0}
        elif step % self.cfg.log_every_steps:
            return state
        rates = meter.rates() | {"train/broken_data": float(self.broken.count)}
        self.log.write(step, {f"train/{name}": value for name, value in metrics.items()} | rates)
        return state

    def _skip(self, pending: _Pending, state: TrainState, metrics: Mapping[str, Any]) -> TrainState:
        """Save a bad step for `tools.replay`, and return the state before it with the step number advanced.

        `state` is the state before it, because a bad step changes nothing (`TrainState`). Raises FloatingPointError if
        the step may not be skipped.
        """
        step, workdir = pending.step, self.stop.outcome.folder
        first_bad = self.stage_step.first_bad(state, pending.batch)
        bad = bad_step.BadStep(self.stage.name, step, state, pending.batch, first_bad, metrics)
        line = bad_step.keep(workdir, self.cfg, bad)
        bad_step.check_budget(workdir, self.cfg.bad_steps, step, line)
        terminal.say(line)
        replicated = sharding.replicated(self.mesh)
        counted, healthy = (jax.device_put(value, replicated) for value in (np.int32(step), np.bool_(True)))
        return dataclasses.replace(state, step=counted, healthy=healthy)
