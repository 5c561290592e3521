"""Trackio: the database in `~/.cache/huggingface/trackio`, or where TRACKIO_DIR, _SPACE_ID or _SERVER_URL says.

TRACKIO_PROJECT names the project; without it, it is bridge_jax. A run is found again by its name, so part of that is
random. Trackio keeps its own time of each step, and no word on how a run ended.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Mapping
from typing import Any

from bridge_jax.workdir.tracking import Start

PACKAGE = "trackio"
INSTALL = "pip install 'bridge_jax[trackio]' && pip install --no-deps trackio"  # it asks for a Pillow with known faults


class Trackio:
    """A run in Trackio."""

    def __init__(self, trackio: Any, run: Any):
        self._trackio, self._run, self.run_id = trackio, run, run.name

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        del when
        self._run.log(dict(values), step=step)

    def finish(self, failed: bool) -> None:
        del failed
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


def begin(start: Start) -> Trackio:
    """Begin a run with the config, or go on with the one of `start.run_id`. Nothing is printed."""
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):
        run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "bridge_jax"),
            name=start.run_id or f"{start.workdir.resolve().name}-{secrets.token_hex(4)}",
            config=dict(start.config),
            resume="allow",
            embed=False,  # no dashboard in a notebook
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    return Trackio(trackio, run)
