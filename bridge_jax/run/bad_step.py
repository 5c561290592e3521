"""What a bad step leaves behind, whose numbers are not finite or whose loss is a spike: enough to run it again alone.

WORKDIR/bad_step_7/checkpoints/6    the state that the step began with
                  /batch.npz        its batch
                  /report.json      step, stage, the first bad tensor, loss and gradient norm, the examples' ids
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bridge_jax.config import BadSteps, Config, ConfigError
from bridge_jax.step.train_step import TrainState
from bridge_jax.types import Batch
from bridge_jax.workdir import atomic
from bridge_jax.workdir.checkpoint import Checkpoints

BATCH, REPORT = "batch.npz", "report.json"


def keep(
    workdir: Path, cfg: Config, stage: str, step: int, state: TrainState, batch: Batch, first_bad: str, metrics: Mapping
) -> str:
    """Write the folder, all hosts together, and return a line that names it, the step and what was bad.

    `state` is the one that `step` (counted from 1) began with, since it was not applied.
    """
    numbers = {name: str(float(metrics[name])) for name in ("loss", "grad_norm")}  # JSON has no NaN
    folder = workdir / f"bad_step_{step}"
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    multihost_utils.sync_global_devices("bad_step")
    saves = Checkpoints(folder)
    saves.save(step - 1, stage, state.params, state.opt_state, cfg)
    saves.close()
    gathered = multihost_utils.process_allgather(batch.arrays(), tiled=True)
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in gathered.items()}
    ids = arrays["image_ids"].tolist()
    if jax.process_index() == 0:
        np.savez(folder / BATCH, **arrays)
        report = {"step": step, "stage": stage, "first_bad": first_bad, **numbers, "image_ids": ids}
        atomic.write_json(folder / REPORT, report)
    return (
        f"step {step} of stage {stage!r}: the first bad number is in {first_bad} (loss {numbers['loss']}, gradient "
        f"norm {numbers['grad_norm']}); the step was not applied: python -m tools.replay --folder={folder} runs it "
        "again alone"
    )


def check_budget(workdir: Path, settings: BadSteps, step: int, line: str) -> None:
    """Raise FloatingPointError, beginning with `line`, where the run may not leave out the bad `step` and go on.

    What was left out are the folders in the workdir, of this step and of earlier ones: a run that was stopped meets
    the later ones again.
    """
    if settings.action == "stop":
        raise FloatingPointError(
            f"{line}. Lower the learning rate, look at the data, or set config.bad_steps.action=skip"
        )
    reports = (path.parent.name.removeprefix("bad_step_") for path in workdir.glob(f"bad_step_*/{REPORT}"))
    # Process 0 has written its report; another may be here before that and would count one less.
    left_out = int(multihost_utils.broadcast_one_to_all(np.int32(sum(int(number) <= step for number in reports))))
    if left_out > settings.budget:
        raise FloatingPointError(
            f"{line}. {left_out} bad steps are more than config.bad_steps.budget, {settings.budget}: lower the "
            "learning rate or look at the data"
        )


def read(folder: Path) -> tuple[Checkpoints, dict[str, Any], Batch]:
    """Return the checkpoint, the report and the batch. Raises ConfigError where the folder is none of `keep`."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with np.load(folder / BATCH, allow_pickle=False) as arrays:
            batch = Batch.of(dict(arrays))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: expected a folder bad_step_N of a workdir ({error})") from error
    return Checkpoints(folder, read_only=True), report, batch
