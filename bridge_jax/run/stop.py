"""Safe stops: SIGTERM and SIGINT are noticed within a second wherever the program is, and lose nothing.

Python runs a signal handler between two bytecodes of the main thread, so an import, a compilation or a wait for data
would delay it. Here the C handler writes the signal's number into a pipe at once (`signal.set_wakeup_fd`), and a thread
of this module, the *watcher*, reads the pipe. The watcher starts another thread, the *ender*, which

    1. takes the lock that the main thread holds while the training state changes (`Stop.busy`): a step in flight ends;
    2. calls `unsaved`, which saves what is in memory and not on disk, and waits until it is committed;
    3. writes the outcome file;
    4. raises StoppedError in the main thread, which then closes logs, bars and worker processes as after any error;
    5. ends the process itself if the main thread has not done so within three seconds, as inside a compilation.

After 3 nothing can be lost, so 4 and 5 may happen anywhere. Outside `busy` the main thread may do anything that leaves
the state alone: compile, evaluate, wait for data. A second signal ends the process at once. That harms nothing either,
because checkpoints are written under a temporary name and committed by a rename.

Several hosts (`multihost`) notice a signal at different steps, but have to save the same step. Before 1 the ender waits
until the loop has told the other hosts (`signal`) and all have reached the step at which they know of it (`agree`). A
long C call that holds Python's interpreter lock delays the watcher too; compiling, executing, decoding and reading
files do not. Before `Stop` is entered, while Python starts and the config is read, there is nothing to lose and signals
have their default effect.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from bridge_jax.workdir.outcome import AbandonedError, Outcome, StoppedError, cause_of, exit_now, last_line

if TYPE_CHECKING:  # it imports jax, which main does only once signals are watched
    from bridge_jax.types import Progress

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNWIND_SECS = 3.0
_AGREE_SECS = 20.0  # a preempted host has 30
_ABANDON_SECS = 0.5  # to write the outcome file after a second signal
STACKS = "stacks.txt"


class Stop:
    """A context manager on the main thread that handles a run's signals, and the lock that guards its state.

    If it is not entered, it is only the lock, and signals have their default effect.
    """

    def __init__(self, outcome: Outcome):
        self.outcome = outcome
        self._unsaved: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._signum = 0  # the signal that this host received; 0: none
        self.multihost = False  # whether all hosts have to stop at the same step
        self._agreed, self._alive = threading.Event(), 0.0
        self._closed = False  # the run ended before the hosts could agree
        self._end_error: BaseException | None = None  # the error to raise in the main thread
        self._raised = False
        self._stacks: IO[str] | None = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the lock while the `with` block changes the training state. Only the main thread calls this."""
        self.wait_for_the_end()
        with self._lock:
            yield

    @property
    def signal(self) -> int:
        """Return the signal that this host received, which the other hosts must hear of; 0: none."""
        return self._signum

    def agree(self, signum: int) -> None:
        """End together with the other hosts, which call this at the same step. Call it inside `busy`, before saving."""
        first, self._signum = not self._signum, self._signum or signum
        self._agreed.set()
        if first:
            threading.Thread(target=self._end, name="stop_ender", daemon=True).start()

    def wait_for_the_end(self) -> None:
        """Block the main thread if the run is being ended."""
        if self._signum and not self._raised and (self._agreed.is_set() or not self.multihost):
            threading.Event().wait()  # until the ender is done and the handler raises StoppedError here

    def keep(self, unsaved: Callable[[], None] | None) -> None:
        """Set, inside `busy`, the function that saves what is in memory and not on disk."""
        self._unsaved = unsaved

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Clear the function of `keep` at the end of the `with` block, even after an error."""
        try:
            yield
        finally:
            if not self._raised:
                with self.busy():
                    self._unsaved = None

    @contextmanager
    def watchdog(self, secs: float) -> Iterator[None]:
        """Append the stacks of all threads to WORKDIR/stacks.txt whenever `alive` was not called for `secs`; 0: never.

        faulthandler writes them from a C thread that needs nothing from Python, so this works in a deadlock too.
        """
        if not secs:
            yield
            return
        self._secs = secs
        path = self.outcome.folder / STACKS
        path.parent.mkdir(parents=True, exist_ok=True)  # process 0 may not have made it yet
        with path.open("a", encoding="utf-8") as self._stacks:
            self.alive()
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self._stacks = None
                if path.exists() and not path.stat().st_size:
                    path.unlink(missing_ok=True)

    def alive(self) -> None:
        """Reset the watchdog: a step, or a part of an evaluation, is done."""
        self._alive = time.monotonic()
        if self._stacks is not None:
            faulthandler.dump_traceback_later(self._secs, repeat=True, file=self._stacks)

    def watched(self, report: "Progress") -> "Progress":
        """Return `report` as a function that also resets the watchdog."""

        def report_alive(what: str, done: int, total: int) -> None:
            self.alive()
            report(what, done, total)

        return report_alive

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        self._main = threading.get_ident()
        threading.Thread(target=self._watch, name="stop_watcher", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.multihost and self._signum:
                with self._lock:  # blocks for ever if the ender holds it, which raises StoppedError here
                    self._closed = True
            self.wait_for_the_end()
        finally:
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.write(self._write, b"\0")  # ends the watcher, which closes the pipe
        # While a C module is imported, `error` is an ImportError instead.
        if self._end_error is not None and error is not self._end_error:
            raise self._end_error

    def _handle(self, signum: int, frame: object) -> None:
        if self._end_error is not None and not self._raised:
            self._raised = True
            raise self._end_error

    def _watch(self) -> None:
        while signum := os.read(self._read, 1)[0]:
            if signum not in SIGNALS or self._end_error is not None:
                continue
            if self._signum:
                self._abandon(signum)
            self._signum = signum
            notice = f"{signal.Signals(signum).name}: stopping; a second signal ends the run at once"
            print(notice, file=sys.stderr, flush=True)
            threading.Thread(target=self._end, name="stop_ender", daemon=True).start()
        os.close(self._read)
        os.close(self._write)

    def _end(self) -> None:
        alone = self.multihost and not self._wait_for_the_others()
        self._lock.acquire()  # never released
        if self._closed:
            return
        lost = f"no step ended within {_AGREE_SECS:g} s" if alone else ""
        end_error: BaseException = StoppedError(self._signum, self.outcome.step, lost)
        try:
            if self._unsaved is not None:
                self._unsaved()
        except Exception as error:
            end_error = error
        self.outcome.end(end_error)
        self._end_error = end_error
        signal.pthread_kill(self._main, self._signum)
        time.sleep(_UNWIND_SECS)
        print(last_line(end_error), file=sys.stderr, flush=True)
        exit_now(cause_of(end_error).exit_code)

    def _wait_for_the_others(self) -> bool:
        """Wait for the step at which all hosts stop. Return False if no step ends, as in a long evaluation."""
        self._alive = time.monotonic()
        while time.monotonic() - self._alive < _AGREE_SECS:
            if self._agreed.wait(0.1):
                return True
        return False

    def _abandon(self, signum: int) -> None:
        error = AbandonedError(signum)
        writer = threading.Thread(target=self.outcome.end, args=(error,), daemon=True)
        writer.start()
        writer.join(_ABANDON_SECS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        exit_now(cause_of(error).exit_code)
