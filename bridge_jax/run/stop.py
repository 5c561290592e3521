"""Safe stops: SIGTERM and SIGINT are noticed within a second wherever the program is, and lose nothing.

Python runs its signal handlers between two bytecodes of the main thread, so an import, a compilation or a wait for data
would hold them up for as long as it takes. Here the C handler writes the signal's number into a pipe at once
(`signal.set_wakeup_fd`), and a thread of our own reads it: the *watcher*. It starts another, the *ender*, which

    1. takes the lock that the main thread holds while the training state changes (`Stop.busy`): a step in flight ends;
    2. calls `unsaved`, which saves what memory holds and the disk does not, and waits until it is committed;
    3. writes the outcome file;
    4. raises StoppedError in the main thread, which then closes logs, bars and worker processes as after any error;
    5. ends the process itself where the main thread has not done so within three seconds, as inside a compilation.

After 3 nothing can be lost, so 4 and 5 may happen anywhere. Outside `busy` the main thread may do whatever leaves the
state alone: compile, evaluate, wait for data. A second signal ends the process at once; since checkpoints are written
aside and committed by a rename, that harms nothing either. Several hosts (`together`) notice a signal at different
steps and can only save the same one: before 1 the ender waits until the loop has told the others (`asked`) and all
have come to the step at which they do (`agree`). What holds Python's interpreter lock in one long call of C
holds up the watcher too; compiling, executing, decoding and reading files do not. Before `Stop` is entered, while
Python starts and the config is read, there is nothing to lose and signals do what they always do.
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

if TYPE_CHECKING:  # it brings jax, which main imports only once signals are watched
    from bridge_jax.types import Progress

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNWIND_SECS = 3.0
_TOGETHER_SECS = 20.0  # a preempted host is given 30
_ABANDON_SECS = 0.5  # for the outcome file of a process that shall end at once
STACKS = "stacks.txt"


class Stop:
    """The signals of a run, as a context manager on the main thread, and the lock that they respect.

    Without being entered it only holds the lock: signals then do what they always do.
    """

    def __init__(self, outcome: Outcome):
        self.outcome = outcome
        self._unsaved: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._asked = 0  # the signal
        self.together = False  # with other hosts
        self._agreed, self._alive = threading.Event(), 0.0
        self._closed = False  # the run has ended before the hosts could agree
        self._over: BaseException | None = None  # with what the main thread shall end
        self._raised = False
        self._stacks: IO[str] | None = None

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Change the training state, which nobody else may look at meanwhile. The main thread alone calls this."""
        self.wait_for_the_end()
        with self._lock:
            yield

    @property
    def signal(self) -> int:
        """The signal that this host has got, to be told to the others; 0: none."""
        return self._asked

    def agree(self, signum: int) -> None:
        """End together with the other hosts, which do the same at the same step. Inside `busy`, before saving."""
        first, self._asked = not self._asked, self._asked or signum
        self._agreed.set()
        if first:
            threading.Thread(target=self._end, name="stop_ender", daemon=True).start()

    def wait_for_the_end(self) -> None:
        """Do not go on where the run is being ended. On the main thread."""
        if self._asked and not self._raised and (self._agreed.is_set() or not self.together):
            threading.Event().wait()  # until the ender has done its work and the handler raises StoppedError here

    def keep(self, unsaved: Callable[[], None] | None) -> None:
        """Say, inside `busy`, how to save what memory holds and the disk does not."""
        self._unsaved = unsaved

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Forget at the end of this block how to save what it kept, also where an error ends it."""
        try:
            yield
        finally:
            if not self._raised:
                with self.busy():
                    self._unsaved = None

    @contextmanager
    def watchdog(self, secs: float) -> Iterator[None]:
        """Append every thread's stack to WORKDIR/stacks.txt whenever `alive` was not called for `secs`; 0: never.

        faulthandler does it from a thread of C that needs nothing from Python, so it works in a deadlock too.
        """
        if not secs:
            yield
            return
        self._secs = secs
        path = self.outcome.folder / STACKS
        path.parent.mkdir(parents=True, exist_ok=True)  # process 0 may not have come to it yet
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
        """Tell the watchdog that a step, or a part of an evaluation, is done."""
        self._alive = time.monotonic()
        if self._stacks is not None:
            faulthandler.dump_traceback_later(self._secs, repeat=True, file=self._stacks)

    def watched(self, report: "Progress") -> "Progress":
        """Return a `report` of progress that also tells the watchdog."""

        def tell(what: str, done: int, total: int) -> None:
            self.alive()
            report(what, done, total)

        return tell

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
            if self.together and self._asked:
                with self._lock:  # for ever where the ender has it: it raises StoppedError here
                    self._closed = True
            self.wait_for_the_end()
        finally:
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.write(self._write, b"\0")  # ends the watcher, which closes the pipe
        if self._over is not None and error is not self._over:  # an import of C turns it into an ImportError
            raise self._over

    def _handle(self, signum: int, frame: object) -> None:
        if self._over is not None and not self._raised:
            self._raised = True
            raise self._over

    def _watch(self) -> None:
        while signum := os.read(self._read, 1)[0]:
            if signum not in SIGNALS or self._over is not None:
                continue
            if self._asked:
                self._abandon(signum)
            self._asked = signum
            notice = f"{signal.Signals(signum).name}: stopping; a second signal ends the run at once"
            print(notice, file=sys.stderr, flush=True)
            threading.Thread(target=self._end, name="stop_ender", daemon=True).start()
        os.close(self._read)
        os.close(self._write)

    def _end(self) -> None:
        alone = self.together and not self._wait_for_the_others()
        self._lock.acquire()  # for good
        if self._closed:
            return
        lost = f"no step ended within {_TOGETHER_SECS:g} s" if alone else ""
        over: BaseException = StoppedError(self._asked, self.outcome.step, lost)
        try:
            if self._unsaved is not None:
                self._unsaved()
        except Exception as error:
            over = error
        self.outcome.end(over)
        self._over = over
        signal.pthread_kill(self._main, self._asked)
        time.sleep(_UNWIND_SECS)
        print(last_line(over), file=sys.stderr, flush=True)
        exit_now(cause_of(over).exit_code)

    def _wait_for_the_others(self) -> bool:
        """Wait for the step at which all hosts stop; return False where steps stand still, as in a long evaluation."""
        self._alive = time.monotonic()
        while time.monotonic() - self._alive < _TOGETHER_SECS:
            if self._agreed.wait(0.1):
                return True
        return False

    def _abandon(self, signum: int) -> None:
        error = AbandonedError(signum)
        last_word = threading.Thread(target=self.outcome.end, args=(error,), daemon=True)
        last_word.start()
        last_word.join(_ABANDON_SECS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        exit_now(cause_of(error).exit_code)
