"""The terminal output of a run: a live bar, and tables at the end. On process 0 only."""

import contextlib
import time
from collections.abc import Iterator

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from bridge_jax import types

_console = Console(soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print one line above the bar."""
    if jax.process_index() == 0:
        _console.print(text, markup=False)


def progress() -> Progress:
    """Return the live bar: the task's name, how far it is, and its status text."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[status]}"))
    return Progress(
        *columns, console=_console, transient=True, disable=not _console.is_terminal or jax.process_index() != 0
    )


@contextlib.contextmanager
def task(bar: Progress, name: str) -> Iterator[types.Progress]:
    """Show a side task while it lasts. Call the result as (what is counted, done, total); total 0: not known.

    Without a terminal, print a line at every quarter of a known total.
    """
    row = bar.add_task(name, total=None, status="")
    quarters: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        quarter = 4 * done // total if total else 0
        if not _console.is_terminal and quarter > quarters.setdefault(what, 0):
            quarters[what] = quarter
            say(f"{name}: {what} {done}/{total}")
        bar.update(row, total=total or None, completed=done, status=f"{what} {done}{f'/{total}' if total else ''}")

    try:
        yield report
    finally:
        bar.remove_task(row)


class Meter:
    """The bar's row of a stage: step, loss, pairs/s, time left, and the share of time spent waiting for data."""

    def __init__(self, bar: Progress, stage: str, step: int, start: int, end: int, batch_size: int):
        self._bar, self._batch_size, self._end = bar, batch_size, end
        self._row: TaskID = bar.add_task(stage, total=end - start, completed=step - start, status="compiling")
        self._start, self._stage = start, stage
        self._first: tuple[int, float] | None = None  # where steady state began: the first step compiles
        self._waited = self._seconds_per_step = self._share = 0.0
        self._live = _console.is_terminal

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in here as waiting for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent in here (evaluating, saving) out of the rates."""
        started = time.monotonic()
        yield
        if self._first is not None:
            self._first = (self._first[0], self._first[1] + time.monotonic() - started)

    def advance(self, step: int, loss: float) -> None:
        """Show that `step` is done, and with which loss."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._waited = (step, now), 0.0
        elif step > self._first[0]:
            elapsed = now - self._first[1]
            self._seconds_per_step = elapsed / (step - self._first[0])
            self._share = self._waited / elapsed
        left = (self._end - step) * self._seconds_per_step
        status = (
            f"step {step}/{self._end}  loss {loss:.3f}  {self.pairs_per_second:.0f} pairs/s  "
            f"{int(left) // 60}:{int(left) % 60:02d} left  {100 * self._share:.0f}% waiting for data"
        )
        self._bar.update(self._row, completed=step - self._start, status=status)
        if not self._live and (step == self._end or (step - self._start) % 100 == 0):
            say(f"{self._stage}: {status}")

    @property
    def pairs_per_second(self) -> float:
        return self._batch_size / self._seconds_per_step if self._seconds_per_step else 0.0

    def rates(self) -> dict[str, float]:
        """Return the rates as metrics of the log."""
        return {"train/pairs_per_second": self.pairs_per_second, "train/waiting_for_data": self._share}


def table(results: types.Table, title: str, seconds: float) -> None:
    """Print an evaluator's table."""
    if jax.process_index() != 0:
        return
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(results.columns):
        drawn.add_column(column, justify="left" if index < results.labels else "right")
    for row in results.rows:
        drawn.add_row(*row)
    _console.print(drawn)
    for line in results.lines:
        say(line)
    say(f"evaluated in {seconds:.0f} s")
