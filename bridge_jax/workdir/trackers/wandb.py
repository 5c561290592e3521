"""Weights & Biases: its files in `WORKDIR/wandb`. WANDB_MODE=offline keeps them there, for `wandb sync` later.

WANDB_PROJECT and WANDB_ENTITY say where the run goes; without the first the project is bridge_jax.
"""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from bridge_jax.workdir.tracking import Start

PACKAGE = "wandb"
INSTALL = "pip install 'bridge_jax[wandb]'"
_FINISH_SECS = 60.0  # what is not sent by then stays in WORKDIR/wandb, for `wandb sync`


class Wandb:
    """A run in Weights & Biases."""

    def __init__(self, run: Any):
        self._run, self.run_id = run, run.id

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        self._run.log(dict(values) | {"_timestamp": when}, step=step)

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def begin(start: Start) -> Wandb:
    """Begin a run, or go on with the one of `start.run_id`. The terminal is not captured."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it tells its makers of its own errors
    import wandb

    return Wandb(
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", "bridge_jax"),
            id=start.run_id or secrets.token_hex(8),
            name=start.workdir.resolve().name,
            resume="allow",
            dir=start.workdir,
            config=dict(start.config),
            settings=wandb.Settings(console="off", quiet=True, finish_timeout=_FINISH_SECS),
        )
    )
