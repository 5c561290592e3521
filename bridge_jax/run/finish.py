"""End a run: score its best checkpoint, print the tables, and leave the rankings behind them."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.evaluators import Evaluator
from bridge_jax.data import records
from bridge_jax.evals.scores.rankings import Rankings
from bridge_jax.report import write
from bridge_jax.run import origin, terminal
from bridge_jax.run.stop import Stop
from bridge_jax.types import Params
from bridge_jax.workdir import rankings
from bridge_jax.workdir.broken_log import BrokenLog
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.log import RunLog


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that the stages of a run, and its end, share."""

    cfg: Config
    mesh: Mesh
    saves: Checkpoints
    log: RunLog
    stop: Stop
    broken: BrokenLog
    data: str  # `records.training_fingerprint`


def finish(run: Run, final: Mapping[str, Evaluator], params: Params, step: int) -> dict[str, float]:
    """Evaluate the best checkpoint on every split of every evaluator, and return the metrics of the tables."""
    cfg, saves, stop = run.cfg, run.saves, run.stop
    best = saves.best()
    if best is not None and best != step:
        params = saves.restore_params(best, params)
    results: dict[str, float] = {}
    stop.outcome.step = step
    for name, evaluator in final.items():
        if best is not None and isinstance(evaluator, evaluators.Fits) and saves.scores(best):
            with terminal.progress() as bar, terminal.task(bar, "fitting") as progress:
                fitted = evaluator.fit(params, stop.watched(progress))
            saves.fit(best, name, fitted)
    splits = [(name, split) for name in final for split in evaluators.settings(cfg, name).splits]
    for name, split in splits:
        evaluator, started = final[name], time.monotonic()
        with (
            terminal.progress() as bar,
            terminal.task(bar, f"evaluating {split}") as progress,
            stop.outcome.spending("evaluate"),
        ):
            watched = stop.watched(progress)
            if isinstance(evaluator, evaluators.LeavesRankings):
                metrics, ranked = evaluator.ranked(params, split, watched)
                keep(stop.outcome.folder, cfg, split, step if best is None else best, ranked)
            else:
                metrics = evaluator.final(params, split, watched)
        title = f"{cfg.data.dataset}/{split}, step {best}"
        terminal.table(evaluator.table(metrics), title, time.monotonic() - started)
        results |= {f"{split}/{key}": value for key, value in metrics.items()}
    run.log.write(step, {f"final/{key}": value for key, value in results.items()})
    terminal.say(f"checkpoints and metrics.jsonl are in {Path(saves.folder).parent}")
    return results


def report(cfg: Config, workdir: str) -> None:
    """Write the page of a finished run, if `config.report` says so. What the page lacks is said, and is no error."""
    if not cfg.report or jax.process_index():
        return
    path = Path(workdir) / "report.html"
    try:
        if jax.process_count() > 1:
            raise ConfigError(f"several processes trained; write it on one: python -m tools.report {workdir}")
        with terminal.progress() as bar, terminal.task(bar, "looking") as progress:
            write.write(workdir, path, write.Asked(), origin.initial, progress)
        terminal.say(f"the page of the run is {path}")
    except ConfigError as error:
        terminal.say(f"{path} was not written: {error}")


def keep(workdir: Path, cfg: Config, split: str, step: int, ranked: Rankings | None) -> None:
    """Write the rankings of a split by the checkpoint of `step` into the workdir, if there are any; on one host."""
    if ranked is not None and jax.process_index() == 0:
        data = records.fingerprint(cfg.data, split)
        rankings.write(workdir, rankings.About(cfg.data.dataset, split, step, data), ranked)
