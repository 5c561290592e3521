"""Log the metrics of a run: JSON lines to compute with, trackers to look at. Only process 0 writes.

`WORKDIR/metrics.jsonl` has one object a line: `step`, `time` (seconds since 1970), then the metrics. JSON has no NaN
and no infinity, so those are the strings "NaN", "Infinity" and "-Infinity", which Python's `float` and JavaScript's
`Number` read back. `workdir/tracking.py` passes the same numbers on to the trackers.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import jax

from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import atomic, tracking

_NOT_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class RunLog:
    """Write the metrics of a run; a context manager.

    A killed run has logged past its last checkpoint. `resume_step` is the step of the restored state (0: from scratch).
    Entries after that step are dropped, because those steps run again; an entry of the step itself is kept and not
    repeated. So a resumed log has every entry once. With None the log is only appended to. `trackers` are told the
    entries too, and `config` when they begin.

    Raises ConfigError if `workdir` is a bucket, which cannot be appended to, if its log is damaged, or if a tracker is
    unknown or not installed.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int | None = None,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] = MappingProxyType({}),
    ):
        if "://" in str(workdir):
            raise ConfigError(
                f"workdir {str(workdir)!r}: the log is appended to, which a bucket does not allow; "
                "give a local or mounted folder"
            )
        self._resume_step = resume_step
        self._logged_at_resume: set[frozenset[str]] = set()
        self._lines = self._trackers = None
        if jax.process_index() != 0:
            return
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        entries = read(path) if resume_step is not None and path.exists() else []
        start = tracking.Start(folder, config, resume_step, run_id="")
        self._trackers = tracking.Trackers(trackers, start, _last_steps(entries))  # before the log forgets them
        if resume_step is not None and path.exists():
            kept = [entry for entry in entries if entry["step"] <= resume_step]
            atomic.write_text(path, "".join(_line(entry) for entry in kept))
            self._logged_at_resume = {_names(entry) for entry in kept if entry["step"] == resume_step}
        self._lines = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log scalars (anything `float` accepts) at `step`. The line is on disk when this returns.

        Raises ValueError on a metric named `step` or `time`.
        """
        if self._lines is None or self._trackers is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        if clash := values.keys() & {"step", "time"}:
            raise ValueError(f"metric {min(clash)!r}: the name is taken by a field of the log; rename the metric")
        if step == self._resume_step and frozenset(values) in self._logged_at_resume:
            return
        now = time.time()
        self._lines.write(_line({"step": int(step), "time": round(now, 3)} | values))
        self._lines.flush()
        self._trackers.write(int(step), now, values)

    def close(self, failed: bool = False) -> None:
        """Flush and close the log, and end the run in the trackers. A closed log ignores further writes."""
        if self._lines is not None and self._trackers is not None:
            self._lines.close()
            self._trackers.finish(failed)
            self._lines = self._trackers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


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


def _last_steps(entries: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Return the last step at which each metric was logged."""
    return {name: int(entry["step"]) for entry in entries for name in _names(entry)}  # later entries win


def _names(entry: Mapping[str, float]) -> frozenset[str]:
    return frozenset(entry) - {"step", "time"}


def _line(entry: Mapping[str, float]) -> str:
    valid = {name: value if math.isfinite(value) else _NOT_JSON[str(value)] for name, value in entry.items()}
    return json.dumps(valid, allow_nan=False) + "\n"
