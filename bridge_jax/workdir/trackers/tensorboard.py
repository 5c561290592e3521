"""TensorBoard: event files in `WORKDIR/tensorboard`, written without TensorFlow."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bridge_jax.workdir.tracking import Start

PACKAGE = "tensorboardX"
INSTALL = "pip install tensorboardX"


class TensorBoard:
    """Event files of one start of a run."""

    run_id = ""

    def __init__(self, folder: Path):
        self._events, self._scalar, writer = _library()
        folder.mkdir(exist_ok=True)
        # The files' names hold the second they were opened: without a fraction a quick restart erases the last file.
        fraction = f".{time.time_ns() % 1_000_000_000:09d}"
        # Not SummaryWriter: a full disk ends its thread, and the run then waits for ever at a queue nobody empties.
        self._file = writer(str(folder / "events"), fraction)

    def forget(self, step: int) -> None:
        """Make TensorBoard hide all earlier events at and after `step`."""
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._file.write_event(self._events.Event(step=step, session_log=start))

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._file.write_event(self._events.Event(step=step, wall_time=when, summary=self._scalar(name, value)))
        self._file.flush()

    def finish(self, failed: bool) -> None:
        del failed  # it has no place for it
        self._file.close()


def begin(start: Start) -> TensorBoard:
    """Open an event file of its own for each start of a run."""
    board = TensorBoard(start.workdir / "tensorboard")
    if start.resume_step is not None:
        board.forget(start.resume_step + 1)
    return board


def _library() -> tuple[Any, Any, Any]:
    """Return tensorboardX's messages, its function that makes a scalar's summary, and its writer.

    Where torch is installed, tensorboardX imports it for a type annotation: two seconds and 180 MB in every process of
    a run. A None in sys.modules makes that import fail, which tensorboardX takes for "not installed".
    """
    hidden = "torch" not in sys.modules
    if hidden:
        cast(dict, sys.modules)["torch"] = None
    try:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
    finally:
        if hidden:
            del sys.modules["torch"]
    return event_pb2, summary.scalar, EventsWriter
