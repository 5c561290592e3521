"""Save a bad step, whose numbers are not finite or whose loss is a spike, so that `tools.replay` can repeat it alone.

WORKDIR/bad_step_7/checkpoints/6    the state before the step
                  /batch.npz        its batch
                  /report.json      step, stage, the first bad tensor, loss and gradient norm, the examples' ids
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from bridge_jax.config import BadSteps, Config, ConfigError, as_json
from bridge_jax.step.train_step import TrainState
from bridge_jax.types import Batch
from bridge_jax.workdir import atomic
from bridge_jax.workdir.checkpoint import Checkpoints

BATCH, REPORT = "batch.npz", "report.json"


class BadStep(NamedTuple):
    """A step that was not applied."""

    stage: str
    step: int  # counted from 1
    state: TrainState  # before the step
    batch: Batch
    first_bad: str  # name of the first tensor that is not finite
    metrics: Mapping[str, Any]


def keep(workdir: Path, cfg: Config, bad: BadStep) -> str:
    """Write the folder, on all hosts together. Return a line that names the folder, the step and the bad tensor."""
    numbers = {name: str(float(bad.metrics[name])) for name in ("loss", "grad_norm")}  # JSON has no NaN
    folder = workdir / f"bad_step_{bad.step}"
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    multihost_utils.sync_global_devices("bad_step")
    saves = Checkpoints(folder)
    saves.save(bad.step - 1, bad.stage, bad.state.params, bad.state.opt_state, cfg)
    saves.close()
    gathered = multihost_utils.process_allgather(bad.batch.arrays(), tiled=True)
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in gathered.items()}
    ids = arrays["image_ids"].tolist()
    if jax.process_index() == 0:
        np.savez(folder / BATCH, **arrays)
        report = {"step": bad.step, "stage": bad.stage, "first_bad": bad.first_bad, **numbers, "image_ids": ids}
        atomic.write_json(folder / REPORT, report)
    return (
        f"step {bad.step} of stage {bad.stage!r}: the first bad number is in {bad.first_bad} (loss {numbers['loss']}, "
        f"gradient norm {numbers['grad_norm']}); the step was not applied; python -m tools.replay --folder={folder} "
        "repeats it alone"
    )


def check_budget(workdir: Path, settings: BadSteps, step: int, line: str) -> None:
    """Raise FloatingPointError, whose text begins with `line`, if the run may not skip the bad `step`.

    Skipped steps are counted by their bad_step_N folders up to this step; later ones may remain from before a restart.
    """
    if settings.action == "stop":
        raise FloatingPointError(
            f"{line}. Lower the learning rate, check the data, or set config.bad_steps.action=skip"
        )
    reports = (path.parent.name.removeprefix("bad_step_") for path in workdir.glob(f"bad_step_*/{REPORT}"))
    # Process 0 counts for all: another may come here before the report is written, and would count one less.
    skipped = int(multihost_utils.broadcast_one_to_all(np.int32(sum(int(number) <= step for number in reports))))
    if skipped > settings.budget:
        raise FloatingPointError(
            f"{line}. {skipped} bad steps exceed config.bad_steps.budget, {settings.budget}: lower the "
            "learning rate or check the data"
        )


def read(folder: Path) -> tuple[Checkpoints, dict[str, Any], Batch]:
    """Return the checkpoint, the report and the batch. Raises ConfigError if `keep` did not write the folder."""
    try:
        report = as_json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with np.load(folder / BATCH, allow_pickle=False) as arrays:
            batch = Batch.from_arrays(dict(arrays))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: expected a bad_step_N folder of a workdir ({error})") from error
    return Checkpoints(folder, read_only=True), report, batch
