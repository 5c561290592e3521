"""Show the numbers of a run elsewhere, beside `metrics.jsonl`: in every tracker that `config.trackers` names.

A file bridge_jax/workdir/trackers/NAME.py defines

    PACKAGE, INSTALL           the module that it imports, in `begin`, and the command that brings it
    begin(start) -> Tracker    begin the run of a workdir, or go on with it

No other file names it. A tracker that raises is switched off with one line in the log, until the run is started again.

A run that was killed logs again what it logged after its last checkpoint. TensorBoard forgets it; the others cannot, so
they are not told twice. `WORKDIR/trackers.json` holds what this takes: for each of them the id of its run, and the last
step of each metric that it knows from earlier starts.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absl import logging

from bridge_jax.config import ConfigError, as_json
from bridge_jax.config.convert import require_one_of
from bridge_jax.workdir import atomic, trackers

FILE = "trackers.json"


class Start(NamedTuple):
    """Tell a tracker what it begins with."""

    workdir: Path  # its last part is the name of the run
    config: Mapping[str, Any]  # as JSON holds it
    resume_step: int | None  # the step of the restored state, 0 from scratch; None: nothing runs again
    run_id: str  # the tracker's own, of an earlier start; empty: none


class Tracker(Protocol):
    """A run in a tracker."""

    run_id: str  # given back at the next start; empty where the tracker forgets what is logged again

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        """Show `values` at `step`; `when` is in seconds since 1970."""
        ...

    def finish(self, failed: bool) -> None:
        """Flush, close, and mark the run as finished, or as failed: stopped or ended by an error."""
        ...


def check(names: Sequence[str]) -> None:
    """Raise ConfigError if a tracker is unknown or its package is not installed. No tracker is imported."""
    known = [file.name for file in pkgutil.iter_modules(trackers.__path__)]
    for name in names:
        require_one_of("config.trackers", name, known)
        if importlib.util.find_spec((tracker := _file(name)).PACKAGE) is None:
            raise ConfigError(
                f"config.trackers: {name!r} needs the package {tracker.PACKAGE}, which is not installed; install it: "
                f"{tracker.INSTALL}"
            )


class Trackers:
    """The trackers of a run, begun."""

    def __init__(self, names: Sequence[str], start: Start, logged: Mapping[str, int]):
        """Begin them. `logged` is the last step of each metric in the log, before what runs again was dropped from it.

        Raises ConfigError if `check` does, or if the workdir's trackers.json is damaged.
        """
        check(names)
        path = start.workdir / FILE
        known = read(path)
        self._running: dict[str, tuple[Tracker, Mapping[str, int]]] = {}
        for name in names:
            run_id, before = known.get(name, ("", {}))
            try:
                tracker = _file(name).begin(start._replace(run_id=run_id))
            except Exception as error:
                _say_off(name, error)
                continue
            last: dict[str, int] = {}
            if run_id and tracker.run_id == run_id:  # it goes on, and knows what the log held before it was cut
                last = {metric: max(logged.get(metric, 0), before.get(metric, 0)) for metric in {**logged, **before}}
            self._running[name] = tracker, last
        known |= {name: (tracker.run_id, last) for name, (tracker, last) in self._running.items() if tracker.run_id}
        if known:
            atomic.write_json(path, {name: {"run": run_id, "logged": last} for name, (run_id, last) in known.items()})

    def write(self, step: int, when: float, values: Mapping[str, float]) -> None:
        """Show the values in every tracker that has not failed."""
        for name, (tracker, last) in list(self._running.items()):
            try:
                if new := {metric: value for metric, value in values.items() if step > last.get(metric, -1)}:
                    tracker.write(step, when, new)
            except Exception as error:
                del self._running[name]
                _say_off(name, error)

    def finish(self, failed: bool) -> None:
        """End the run in every tracker. They ignore what is written afterwards."""
        while self._running:
            name, (tracker, _) = self._running.popitem()
            try:
                tracker.finish(failed)
            except Exception as error:
                _say_off(name, error)


def read(path: Path) -> dict[str, tuple[str, Mapping[str, int]]]:
    """Return for each tracker of a trackers.json the id of its run and the last step of each metric that it knows.

    Raises ConfigError if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        return {
            name: (str(known["run"]), {metric: int(step) for metric, step in known["logged"].items()})
            for name, known in as_json.loads(path.read_bytes()).items()
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected the ids of the run in its trackers, got {error!r}; delete it, and each tracker begins a "
            "new run"
        ) from error


def _file(name: str) -> Any:
    return importlib.import_module(f"{trackers.__name__}.{name}")


def _say_off(name: str, error: Exception) -> None:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    logging.warning("the tracker %s failed and is off until the run is started again; the log goes on: %s", name, text)
