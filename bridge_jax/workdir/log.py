"""Log the metrics of a run: JSON lines to compute with, TensorBoard to look at. Only process 0 writes.

`WORKDIR/metrics.jsonl` has one object a line: `step`, `time` (seconds since 1970), then the metrics. JSON has no NaN
and no infinity, so those are the strings "NaN", "Infinity" and "-Infinity", which Python's `float` and JavaScript's
`Number` read back. TensorBoard event files go to `WORKDIR/tensorboard`.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import jax

from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import atomic

# Where torch is installed, tensorboardX imports it for a type annotation: two seconds and 180 MB in every process of a
# run. A None in sys.modules makes that import fail, which tensorboardX takes for "not installed".
_hidden = "torch" not in sys.modules
if _hidden:
    cast(dict, sys.modules)["torch"] = None
try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2
finally:
    if _hidden:
        del sys.modules["torch"]

_PROTO: Any = event_pb2  # its classes are created on import, so no type checker knows them
_NOT_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class RunLog:
    """Write the metrics of a run; a context manager.

    A killed run has logged past its last checkpoint. `resume_step` is the step of the restored state (0: from scratch).
    Entries after that step are dropped, because those steps run again; an entry of the step itself is kept and not
    repeated. So a resumed log has every entry once. With None the log is only appended to.

    Raises ConfigError if `workdir` is a bucket, which cannot be appended to, or if its log is damaged.
    """

    def __init__(self, workdir: str | os.PathLike[str], resume_step: int | None = None):
        if "://" in str(workdir):
            raise ConfigError(
                f"workdir {str(workdir)!r}: the log is appended to, which a bucket does not allow; "
                "give a local or mounted folder"
            )
        self._resume_step = resume_step
        self._logged_at_resume: set[frozenset[str]] = set()
        self._lines = self._board = None
        if jax.process_index() != 0:
            return
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if resume_step is not None and path.exists():
            kept = _entries_until(path, resume_step)
            atomic.write_text(path, "".join(_line(entry) for entry in kept))
            self._logged_at_resume = {_names(entry) for entry in kept if entry["step"] == resume_step}
        (folder / "tensorboard").mkdir(exist_ok=True)
        self._lines = path.open("a", encoding="utf-8")
        # The files' names hold the second they were opened: without a fraction a quick restart erases the last file.
        fraction = f".{time.time_ns() % 1_000_000_000:09d}"
        # Not SummaryWriter: a full disk ends its thread, and the run then waits for ever at a queue nobody empties.
        self._board = EventsWriter(str(folder / "tensorboard" / "events"), fraction)
        if resume_step is not None:  # TensorBoard then hides all earlier events after this step
            start = _PROTO.SessionLog(status=_PROTO.SessionLog.START)
            self._board.write_event(_PROTO.Event(step=resume_step + 1, session_log=start))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log scalars (anything `float` accepts) at `step`. The line is on disk when this returns.

        Raises ValueError on a metric named `step` or `time`.
        """
        if self._lines is None or self._board is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        if clash := values.keys() & {"step", "time"}:
            raise ValueError(f"metric {min(clash)!r}: the name is taken by a field of the log; rename the metric")
        if step == self._resume_step and frozenset(values) in self._logged_at_resume:
            return
        now = time.time()
        self._lines.write(_line({"step": int(step), "time": round(now, 3)} | values))
        self._lines.flush()
        for name, value in values.items():
            self._board.write_event(_PROTO.Event(step=int(step), wall_time=now, summary=summary.scalar(name, value)))
        self._board.flush()

    def text(self, tag: str, markdown: str) -> None:
        """Show a text, such as the config, under the Text tab of TensorBoard."""
        if self._board is not None:
            self._board.write_event(_PROTO.Event(wall_time=time.time(), summary=summary.text(tag, markdown)))

    def close(self) -> None:
        """Flush and close both logs. A closed log ignores further writes."""
        if self._lines is not None and self._board is not None:
            self._lines.close()
            self._board.close()
            self._lines = self._board = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Return the entries of a `metrics.jsonl`, numbers as floats again.

    A killed run may leave a last line without its end; it is not an entry. Raises ConfigError for other damage.
    """
    entries = []
    for number, line in enumerate(
        Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1
    ):
        if not line.endswith("\n"):
            break
        try:
            entry = {name: float(value) for name, value in as_json.loads(line).items()}
            entries.append(entry | {"step": int(entry["step"])})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}, line {number}: expected a log entry, got {line.strip()[:60]!r}; repair or move the file"
            ) from error
    return entries


def _entries_until(path: Path, step: int) -> list[dict[str, float]]:
    return [entry for entry in read(path) if entry["step"] <= step]


def _names(entry: Mapping[str, float]) -> frozenset[str]:
    return frozenset(entry) - {"step", "time"}


def _line(entry: Mapping[str, float]) -> str:
    valid = {name: value if math.isfinite(value) else _NOT_JSON[str(value)] for name, value in entry.items()}
    return json.dumps(valid, allow_nan=False) + "\n"
