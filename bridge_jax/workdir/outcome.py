"""Write the outcome of a run: why it ended, with which exit code, and how its seconds were spent.

`WORKDIR/outcome.json` is replaced as a whole when a run begins (cause "running"), at every checkpoint and when it ends,
whatever ends it. A run that SIGKILL, lack of memory or loss of power ended leaves "running" with its host and pid. A
command that is refused before the run began (a wrong config, a workdir in use) writes nothing.
"""

import dataclasses
import datetime
import errno
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from absl import logging

from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import atomic, lock, manifest
from bridge_jax.workdir.lock import WorkdirBusyError

FILE = "outcome.json"
GO_ON = "start the same command again"


class StorageError(RuntimeError):
    """A file could not be written, or is missing or damaged. The text names the path and says what to do."""


class StoppedError(BaseException):
    """A signal ended the run. `lost` explains why steps are lost; empty: none are.

    It is no Exception, like KeyboardInterrupt, so that no `except Exception` catches it.
    """

    def __init__(self, signum: int, step: int = 0, lost: str = ""):
        advice = f"{lost}, so the same command resumes from the last checkpoint"
        if not lost:
            advice = "nothing is lost, the same command resumes"
        after = f" after step {step}" if step else ""
        super().__init__(f"stopped by {signal.Signals(signum).name}{after}; {advice}")
        self.signum = signum


class AbandonedError(BaseException):
    """A second signal ended the run at once."""

    def __init__(self, signum: int):
        name = signal.Signals(signum).name
        super().__init__(f"ended at once by a second signal, {name}; the same command resumes from the last checkpoint")


@dataclasses.dataclass(frozen=True)
class Cause:
    """Why a process ended: its name in outcome.json, the exit code, and what to do next."""

    name: str
    exit_code: int
    next: str


# docs/runs.md, "How a run ends", lists the same for users; tests/workdir/test_outcome.py compares them.
FINISHED = Cause("finished", 0, "score it with python -m tools.evaluate")
INTERNAL = Cause("internal_error", 1, f"report it with its traceback; {GO_ON} to go on from the last checkpoint")
USER = Cause("user_error", 2, f"mend what the message names, then {GO_ON}")
NUMBERS = Cause("bad_numbers", 3, "lower the learning rate or look at the data; the last checkpoint is whole")
BUSY = Cause("workdir_busy", 4, "wait for the other run or end it, or give another --workdir")
STORAGE = Cause("storage", 5, f"make room or mend the disk, then {GO_ON}")
ABANDONED = Cause("abandoned", 6, f"{GO_ON} to go on from the last checkpoint")
INTERRUPTED = Cause("stopped", 128 + signal.SIGINT, GO_ON)
TERMINATED = Cause("stopped", 128 + signal.SIGTERM, GO_ON)
CAUSES = (FINISHED, INTERNAL, USER, NUMBERS, BUSY, STORAGE, ABANDONED, INTERRUPTED, TERMINATED)

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
}
_PATH_ERRORS = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}  # a name leads nowhere


def cause_of(error: BaseException | None) -> Cause:
    """Return the cause that `error` stands for; None: the run finished."""
    if isinstance(error, StoppedError):
        return INTERRUPTED if error.signum == signal.SIGINT else TERMINATED
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return STORAGE
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS:
        return USER
    kinds = {ConfigError: USER, FloatingPointError: NUMBERS, WorkdirBusyError: BUSY, StorageError: STORAGE,
             AbandonedError: ABANDONED, KeyboardInterrupt: INTERRUPTED, type(None): FINISHED}  # fmt: skip
    return next((cause for kind, cause in kinds.items() if isinstance(error, kind)), INTERNAL)


def last_line(error: BaseException) -> str:
    """Return the last line of a run on stderr. A stop by a signal is not called an error."""
    line = " ".join(str(error).split())
    return line if isinstance(error, StoppedError) else f"error: {line}"


def exit_now(code: int) -> NoReturn:
    """End the process and its children without waiting for its threads."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    os._exit(code)


class Outcome:
    """The outcome file of a workdir, its lock, and the account of seconds; a context manager around the whole run.

    Every second of the process is booked to one activity (see `spending`); only `train` advances the training. The
    account continues over restarts: `down` is the time between two processes, `lost` the time that the earlier process
    worked after its last checkpoint.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self.folder = Path(workdir)
        self.stage, self.step, self.doing = "", 0, "start"
        self.secs: dict[str, float] = {}
        self._since, self._began, self._starts = time.monotonic(), _now(), 1
        self._lock: int | None = None
        self._begun = self._ended = False
        self._writes, self._writing = True, threading.Lock()

    def begin(self, *, writes: bool = True) -> None:
        """Take the workdir's lock and write the cause "running". Raises WorkdirBusyError.

        `writes` is False on all hosts but the first.
        """
        self._writes = writes
        if writes:
            self._lock = lock.take(self.folder)
            self._take_account()
        self._begun = True
        self.write()

    @contextmanager
    def spending(self, activity: str) -> Iterator[None]:
        """Book the seconds of the `with` block to `activity`. After an error `doing` stays the activity that failed."""
        before = self._book(activity)
        yield
        self._book(before)

    def shares(self) -> dict[str, float]:
        """Return the account as metrics of the log, `goodput/<activity>_secs` -> seconds."""
        self._book(self.doing)
        return {f"goodput/{name}_secs": round(value, 3) for name, value in self.secs.items()}

    def write(self, cause: Cause | None = None, message: str = "") -> None:
        """Replace the outcome file."""
        if not self._writes:
            return
        self._book(self.doing)
        saved = manifest.committed(self.folder / manifest.CHECKPOINTS)
        record = {
            "cause": cause.name if cause else "running",
            "exit_code": cause.exit_code if cause else None,
            "message": message,
            "command": shlex.join(sys.orig_argv),
            "next": cause.next if cause else f"if no such process runs, it was killed without notice: {GO_ON}",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": self._began,
            "at": _now(),
            "stage": self.stage,
            "step": self.step,
            "saved_step": saved[-1] if saved else 0,
            "doing": "nothing" if cause is FINISHED else self.doing,
            "starts": self._starts,
            "goodput": round(self.secs.get("train", 0.0) / max(sum(self.secs.values()), 1e-9), 3),
            "secs": {name: round(value, 3) for name, value in self.secs.items()},
        }
        with self._writing:
            atomic.write_json(self.folder / FILE, record)

    def end(self, error: BaseException | None) -> None:
        """Write once why the run ended. If the disk refuses, say so on stderr."""
        cause = cause_of(error)
        if self._ended or (not self._begun and cause in (USER, BUSY)):
            return
        self._ended = True
        try:
            if not self._begun:  # a signal or an internal error came before `begin`
                self._lock = lock.take(self.folder)
                self._take_account()
            self.write(cause, str(error) if error else "")
        except WorkdirBusyError:
            pass  # the file belongs to the other run
        except OSError as failure:
            print(f"error: {self.folder / FILE} could not be written: {failure}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _book(self, activity: str) -> str:
        now, before = time.monotonic(), self.doing
        self.secs[before] = self.secs.get(before, 0.0) + now - self._since
        self._since, self.doing = now, activity
        return before

    def _take_account(self) -> None:
        """Continue the account of the process before this one. What cannot be read is set aside and named."""
        path = self.folder / FILE
        if not path.exists():
            return
        try:
            before: dict[str, Any] = as_json.loads(path.read_text(encoding="utf-8"))
            written = datetime.datetime.fromisoformat(before["at"]).timestamp()
            earlier = {str(name): float(value) for name, value in before["secs"].items()}
            starts, step, stage = int(before["starts"]), int(before["step"]), str(before["stage"])
            running = before["cause"] == "running"
        except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
            aside = path.rename(path.with_name(f"{FILE}.damaged-{time.time_ns()}"))
            fault = f"{path}: expected an outcome of bridge_jax ({error!r})"
            logging.warning("%s; it is now %s, and the account of seconds begins anew", fault, aside.name)
            return
        self._starts = starts + 1
        log = self.folder / "metrics.jsonl"  # a killed run was last alive when it wrote the last line
        alive = max(written, log.stat().st_mtime) if running and log.exists() else written
        began = datetime.datetime.fromisoformat(self._began).timestamp()
        earlier["lost"] = earlier.get("lost", 0.0) + alive - written
        earlier["down"] = earlier.get("down", 0.0) + max(0.0, began - alive)
        self.secs = {name: self.secs.get(name, 0.0) + earlier.get(name, 0.0) for name in self.secs | earlier}
        if not self.step:
            self.step, self.stage = step, stage


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
