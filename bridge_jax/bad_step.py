"""What a step with a number that is not finite leaves behind: enough to run it again alone (tools/replay).

WORKDIR/bad_step_7/checkpoints/6    the state that the step began with
                  /batch.npz        its batch
                  /report.json      step, stage, the first bad tensor, loss and gradient norm, the examples' ids
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bridge_jax import atomic
from bridge_jax.checkpoint import Checkpoints
from bridge_jax.config import Config, ConfigError
from bridge_jax.step import TrainState
from bridge_jax.types import Batch

BATCH, REPORT = "batch.npz", "report.json"


def keep(
    workdir: Path, cfg: Config, stage: str, step: int, state: TrainState, batch: Batch, first_bad: str, metrics: Mapping
) -> FloatingPointError:
    """Write the folder and return the error that names it. On several hosts, which hold a part each, only the error.

    `state` is the one that `step` (counted from 1) began with, since it was not applied.
    """
    numbers = {name: str(float(metrics[name])) for name in ("loss", "grad_norm")}  # JSON has no NaN
    text = (
        f"step {step} of stage {stage!r}: the first number that is not finite is in {first_bad} (loss "
        f"{numbers['loss']}, gradient norm {numbers['grad_norm']}); the step was not applied. Lower the learning rate "
        "or look at the data"
    )
    if jax.process_count() > 1:
        return FloatingPointError(text)
    folder = workdir / f"bad_step_{step}"
    shutil.rmtree(folder, ignore_errors=True)
    saves = Checkpoints(folder)
    saves.save(step - 1, stage, state.params, state.opt_state, cfg)
    saves.close()
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in fields.items() if array is not None}
    np.savez(folder / BATCH, **arrays)
    ids = np.asarray(batch.image_ids).tolist()
    atomic.write_json(
        folder / REPORT, {"step": step, "stage": stage, "first_bad": first_bad, **numbers, "image_ids": ids}
    )
    return FloatingPointError(f"{text}: python -m tools.replay --folder={folder} runs it again alone")


def read(folder: Path) -> tuple[Checkpoints, dict[str, Any], Batch]:
    """Return the checkpoint, the report and the batch. Raises ConfigError where the folder is none of `keep`."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with np.load(folder / BATCH, allow_pickle=False) as arrays:
            batch = Batch(**dict(arrays))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: expected a folder bad_step_N of a workdir ({error})") from error
    return Checkpoints(folder, read_only=True), report, batch
