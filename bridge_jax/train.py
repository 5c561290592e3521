"""The loop: every stage of a config in order, resumed wherever the workdir stopped. And nothing else.

Per step, in this order: maybe checkpoint (the state before the step), maybe evaluate it, draw, dispatch, and only then
read the metrics of the previous step. Reading one step late lets the device compute while the host draws; saving before
evaluating lets a run that is stopped meanwhile lose nothing, and the score is put into the checkpoint afterwards.

What changes the state or reads it once more is done inside `stop.busy`; everything else may be cut short by a signal.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from bridge_jax import bad_step, lower_cache, optim, rules, sharding, terminal, workdir_lock
from bridge_jax import step as steps
from bridge_jax.checkpoint import SCORE, Checkpoints
from bridge_jax.config import Config, ConfigError
from bridge_jax.config_json import differences
from bridge_jax.data import pipeline, text
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.interop import hf_import
from bridge_jax.outcome import Outcome
from bridge_jax.run_log import RunLog
from bridge_jax.stop import Stop
from bridge_jax.types import Params
from bridge_jax.workdir_lock import WorkdirBusyError

# A run may go on under a config that differs in these: they change how long, where and how often, not what is computed.
MAY_CHANGE = ("blocks", "log_every_steps", "watchdog_secs", "checkpoint", "cache_dir", "data.workers", "data.threads",
              "data.prefetch_batches", "data.data_dir", "evals", "mesh", "sharding", "vision.pretrained",
              "text.pretrained")  # fmt: skip


def run(cfg: Config, workdir: str, stop: Stop | None = None) -> dict[str, float]:
    """Train all stages, evaluate the best checkpoint on every split, and return the metrics of the last table.

    Raises ConfigError or WorkdirBusyError before anything is written where the config, the data or the workdir cannot
    work, FloatingPointError naming the step and the first bad tensor when a number is not finite, and StorageError when
    a checkpoint cannot be saved or read. Without `stop` signals do what they always do.
    """
    if stop is None:
        with Outcome(workdir) as outcome:
            return run(cfg, workdir, Stop(outcome))
    workdir_lock.refuse_if_taken(stop.outcome.folder)
    mesh = sharding.make_mesh(cfg.mesh)
    ends = np.cumsum([cfg.stages[name].steps for name in cfg.stage_order]).tolist()
    pipeline.open_split(cfg.data, cfg.data.train_split)
    text.load(cfg.data, cfg.text)
    for split in (cfg.data.eval_split, *cfg.evals.retrieval.splits):
        photos, folds = len(pipeline.open_split(cfg.data, split)), cfg.evals.retrieval.folds
        if split in cfg.evals.retrieval.splits and photos % folds:
            raise ConfigError(
                f"config.evals.retrieval.folds: {folds} folds do not divide the {photos} photos of {split!r}; "
                "choose a divisor, or 1 for none"
            )
    plans = [
        steps.build(cfg, name, end - cfg.stages[name].steps, mesh)
        for name, end in zip(cfg.stage_order, ends, strict=True)
    ]
    saves = Checkpoints(workdir, cfg.checkpoint.keep_last, frozen=_frozen_towers(cfg, plans))
    with contextlib.closing(saves):
        step = saves.latest() or 0
        params = _resume(cfg, saves, step, mesh) if step else initial(cfg, mesh)
        # Compiled programs are kept beside the cached states, so that going on costs no second compilation.
        jax.config.update("jax_compilation_cache_dir", str(Path(cfg.cache_dir).resolve() / "xla"))
        stop.outcome.begin(writes=jax.process_index() == 0)
        if (saves.latest() or 0) != step:
            raise WorkdirBusyError(f"--workdir {workdir!r}: another run has just saved there; start again")
        with RunLog(workdir, resume_step=step) as log, stop.watchdog(cfg.watchdog_secs):
            for index, (plan, end) in enumerate(zip(plans, ends, strict=True)):
                if step < end or (step == end and not saves.scores(step)):  # killed before its last state was scored
                    params = _Stage(cfg, index, plan, mesh, saves, log, stop).run(params, step, end)
                    step = end
            return _finish(cfg, mesh, saves, log, params, step, stop)


def _frozen_towers(cfg: Config, plans: list[steps.StageStep]) -> set[str]:
    """Return the paths of the towers' parameters that no stage trains."""
    trained = {path for plan in plans for path in plan.trainable}
    paths = rules.paths(jax.eval_shape(lambda: steps.init_params(cfg)))
    return {path for path in paths if path.startswith(("vision/", "text/"))} - trained


def initial(cfg: Config, mesh: Mesh) -> Params:
    """Return the parameters a run starts from: random, with the pretrained towers or a whole checkpoint read in."""
    placed = jax.tree.map(lambda leaf: leaf.sharding, steps.abstract_params(cfg, mesh))
    params = jax.jit(lambda: steps.init_params(cfg), out_shardings=placed)()
    if cfg.init_from:
        source, step = _source(cfg)
        return source.restore_params(step, params)
    if cfg.vision.pretrained:
        params = {**params, "vision": hf_import.vision_params(cfg.vision.pretrained, cfg.vision)}
    if cfg.text.pretrained:
        params = {**params, "text": hf_import.text_params(cfg.text.pretrained, cfg.text)}
    return jax.device_put(params, placed)


def _source(cfg: Config) -> tuple[Checkpoints, int]:
    """Return where `init_from` points, and its best step. Raises ConfigError where there is none."""
    source = Checkpoints(cfg.init_from, read_only=True)
    step = source.best()
    if step is None:
        raise ConfigError(f"config.init_from: no checkpoint in {str(source.folder)!r}")
    return source, step


def _fused_was_trained(cfg: Config, index: int) -> bool:
    """Return whether the fused heads were trained before stage `index`, here or in what the run started from."""
    here = any(steps.trains_fused(cfg, name) for name in cfg.stage_order[:index])
    if here or not cfg.init_from:
        return here
    source, step = _source(cfg)  # all of it is hashed before it is believed: once a stage, not at every save
    return source.meta(step).fused_trained


class _Stage:
    """One stage of a run: its state, its data, what it says."""

    def __init__(
        self, cfg: Config, index: int, plan: steps.StageStep, mesh: Mesh, saves: Checkpoints, log: RunLog, stop: Stop
    ) -> None:
        self.cfg, self.index, self.plan, self.mesh, self.saves, self.log = cfg, index, plan, mesh, saves, log
        self.stop, self.spending = stop, stop.outcome.spending
        self.name = cfg.stage_order[index]
        self.stage = cfg.stages[self.name]
        self.predict = steps.build_predict(cfg, mesh)
        self.evaluator = Evaluator(cfg, self.predict, lower_frozen=self.stage.cached_crops > 0)
        self.fused_was_trained = _fused_was_trained(cfg, index)

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
            pending = train_step = None
            for now in range(step, end + 1):
                due = self._due(now, start, end)
                if now not in (start, saved) and (due or now % self.cfg.checkpoint.every_steps == 0):
                    with stop.busy():
                        pending = self._read(pending, state, meter)  # a bad number is never scored or saved
                        with meter.paused():
                            self._save(now, state)
                        self._keep(self.saves.wait)
                if due and not (now == saved and self.saves.scores(now)):
                    with meter.paused(), self.spending("evaluate"):
                        self._evaluate(state.params, now, bar)
                if now == end:
                    break
                with meter.waiting(), self.spending("data"):
                    batch = sharding.put_batch(next(batches), self.mesh)
                if train_step is None:
                    with self.spending("compile"):
                        train_step = self.plan.train_step.lower(state, batch).compile()
                with stop.busy():
                    stop.keep(None)
                    self.saves.check()
                    state, metrics = train_step(state, batch)
                    self._read(pending, state, meter)
                    pending = (now + 1, batch, metrics)
                    stop.outcome.step = now + 1
                    self._keep(partial(self._save_and_wait, now + 1, state, pending, meter))
        return state.params

    def _state(self, params: Params, step: int, start: int) -> steps.TrainState:
        if step > start:
            state = self.plan.init(jnp.int32(step), params)
            return dataclasses.replace(state, opt_state=self.saves.restore_opt_state(step, state.opt_state))
        if steps.trains_fused(self.cfg, self.name) and not self.fused_was_trained:
            params = optim.start_fused(self.cfg, params)
        return self.plan.init(jnp.int32(step), params)

    def _save(self, step: int, state: steps.TrainState) -> None:
        trained = self.fused_was_trained or steps.trains_fused(self.cfg, self.name)
        with self.spending("save"):
            self.saves.save(step, self.name, state.params, state.opt_state, self.cfg, fused_trained=trained)
            self.log.write(step, self.stop.outcome.shares())
            self.stop.outcome.write()

    def _keep(self, unsaved: Callable[[], None]) -> None:
        if jax.process_count() == 1:  # hosts notice a signal at different steps, and would wait for each other for ever
            self.stop.keep(unsaved)

    def _save_and_wait(self, step: int, state: steps.TrainState, pending: Any, meter: terminal.Meter) -> None:
        self._read(pending, state, meter)
        self._save(step, state)
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
        return step == end or (step > start and (step - start) % self.cfg.evals.retrieval.every_steps == 0)

    def _evaluate(self, params: Params, step: int, bar: terminal.Progress) -> None:
        """Score held-out unimodal recall, by which the best checkpoint is chosen; the bridge is scored at the end."""
        with terminal.task(bar, "evaluating") as progress:
            limit = self.cfg.evals.retrieval.select_images
            metrics = self.evaluator.run(
                params,
                self.cfg.data.eval_split,
                rerank=False,
                limit_images=limit,
                progress=self.stop.watched(progress),
            )
        self.log.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        terminal.say(
            f"step {step} {self.name}: unimodal text_to_image r@1 {metrics['unimodal/text_to_image/r@1']:.1f}, "
            f"image_to_text r@1 {metrics['unimodal/image_to_text/r@1']:.1f}, rsum {metrics['unimodal/rsum']:.1f}"
        )
        with self.stop.busy():
            self.saves.score(step, {"stage_index": float(self.index), SCORE: metrics["unimodal/rsum"]})

    def _read(self, pending: Any, state: steps.TrainState, meter: terminal.Meter) -> None:
        """Log the metrics of a step that has been computed by now. Raises FloatingPointError on a bad number."""
        if pending is None:
            return
        step, batch, metrics = pending
        metrics = jax.device_get(metrics)
        meter.advance(step, float(metrics["loss"]))
        self.stop.alive()
        if not metrics.pop("healthy"):
            first_bad, workdir = self.plan.first_bad(state, batch), self.stop.outcome.folder
            raise bad_step.keep(workdir, self.cfg, self.name, step, state, batch, first_bad, metrics)
        if step % self.cfg.log_every_steps == 0:
            self.log.write(step, {f"train/{name}": value for name, value in metrics.items()} | meter.rates())


def _resume(cfg: Config, saves: Checkpoints, step: int, mesh: Mesh) -> Params:
    """Return the parameters of the newest checkpoint. Raises ConfigError when the config computes something else."""
    changed = [
        line
        for line in differences(saves.meta(step).config, cfg)
        if not any(line.startswith((f"{key}:", f"{key}.")) for key in MAY_CHANGE)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{saves.folder.parent}: the checkpoint of step {step} was made with another config "
            f"({'; '.join(changed[:3])}{more}): give that config again, or another --workdir"
        )
    logging.info("resuming at step %d", step)
    return saves.restore_params(step, steps.abstract_params(cfg, mesh))


def _finish(
    cfg: Config, mesh: Mesh, saves: Checkpoints, log: RunLog, params: Params, step: int, stop: Stop
) -> dict[str, float]:
    """Evaluate the best checkpoint on every split, unimodal and reranked, and print the tables."""
    best = saves.best()
    if best is not None and best != step:
        params = saves.restore_params(best, params)
    evaluator, everything = Evaluator(cfg, steps.build_predict(cfg, mesh)), {}
    stop.outcome.step = step
    for split in cfg.evals.retrieval.splits:
        started = time.monotonic()
        with (
            terminal.progress() as bar,
            terminal.task(bar, f"evaluating {split}") as progress,
            stop.outcome.spending("evaluate"),
        ):
            watched = stop.watched(progress)
            metrics = evaluator.run(params, split, rerank=cfg.bridge.design != "none", progress=watched)
        terminal.recall_table(metrics, f"{cfg.data.dataset}/{split}, step {best}", time.monotonic() - started)
        everything |= {f"{split}/{name}": value for name, value in metrics.items()}
    log.write(step, {f"final/{name}": value for name, value in everything.items()})
    terminal.say(f"checkpoints, metrics.jsonl and tensorboard are in {Path(saves.folder).parent}")
    return everything
