"""What a run shows: a live bar, and a table at the end. On process 0 only."""

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
    """Return the live bar: what, how far, then whatever the task says of itself."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[says]}"))
    return Progress(
        *columns, console=_console, transient=True, disable=not _console.is_terminal or jax.process_index() != 0
    )


@contextlib.contextmanager
def task(bar: Progress, name: str) -> Iterator[types.Progress]:
    """Show a side task while it lasts; call the result as (what, done, total), total 0 when unknown.

    Where there is no terminal, a line is printed at every quarter of a total that is known.
    """
    row = bar.add_task(name, total=None, says="")
    quarters: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        quarter = 4 * done // total if total else 0
        if not _console.is_terminal and quarter > quarters.setdefault(what, 0):
            quarters[what] = quarter
            say(f"{name}: {what} {done}/{total}")
        bar.update(row, total=total or None, completed=done, says=f"{what} {done}{f'/{total}' if total else ''}")

    try:
        yield report
    finally:
        bar.remove_task(row)


class Meter:
    """Step, stage, loss, pairs/s, time left, and the share of time spent waiting for data."""

    def __init__(self, bar: Progress, stage: str, step: int, start: int, end: int, batch_size: int):
        self._bar, self._batch_size, self._end = bar, batch_size, end
        self._row: TaskID = bar.add_task(stage, total=end - start, completed=step - start, says="compiling")
        self._start, self._stage = start, stage
        self._first: tuple[int, float] | None = None  # where steady state began: the first step compiles
        self._waited = self._seconds_per_step = self._share = 0.0
        self._live = _console.is_terminal

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
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
        """Take note that `step` was computed."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._waited = (step, now), 0.0
        elif step > self._first[0]:
            elapsed = now - self._first[1]
            self._seconds_per_step = elapsed / (step - self._first[0])
            self._share = self._waited / elapsed
        left = (self._end - step) * self._seconds_per_step
        says = (
            f"step {step}/{self._end}  loss {loss:.3f}  {self.pairs_per_second:.0f} pairs/s  "
            f"{int(left) // 60}:{int(left) % 60:02d} left  {100 * self._share:.0f}% waiting for data"
        )
        self._bar.update(self._row, completed=step - self._start, says=says)
        if not self._live and (step == self._end or (step - self._start) % 100 == 0):
            say(f"{self._stage}: {says}")

    @property
    def pairs_per_second(self) -> float:
        return self._batch_size / self._seconds_per_step if self._seconds_per_step else 0.0

    def rates(self) -> dict[str, float]:
        """Return what the log keeps of it."""
        return {"train/pairs_per_second": self.pairs_per_second, "train/waiting_for_data": self._share}


def table(found: types.Table, title: str, seconds: float) -> None:
    """Print what an evaluator has to show."""
    if jax.process_index() != 0:
        return
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(found.columns):
        drawn.add_column(column, justify="left" if index < found.labels else "right")
    for row in found.rows:
        drawn.add_row(*row)
    _console.print(drawn)
    for line in found.lines:
        say(line)
    say(f"evaluated in {seconds:.0f} s")
