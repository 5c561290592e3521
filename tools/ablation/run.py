"""Run the cells of a grid, each in a process of its own, and write what they say."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections

from bridge_jax.config import ConfigError
from bridge_jax.data.records import run_fingerprint
from bridge_jax.run import distributed, terminal
from bridge_jax.workdir import atomic
from tools.ablation import cell, cost, judge, page
from tools.ablation.cell import Cell
from tools.ablation.rows import guarded, rows

STOPPED = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes after which no other cell is begun


def cells(settings: ml_collections.ConfigDict, grid: str, seeds: list[int]) -> list[Cell]:
    """Return all rows of a grid with all seeds, in the order that `--cell` counts. Raises ConfigError."""
    return cell.cells(rows(settings, grid), seeds)


def check(every: Sequence[Cell], out: Path, grid: str) -> None:
    """Raise ConfigError where a row cannot run, or a cell that is there was made by other code or from other data."""
    for each in _first(every):
        guarded(grid, each.row.name, partial(cell.check, each.cfg))
    mine = {"code": distributed.code(), "data": run_fingerprint(every[0].cfg)}
    for seeds in judge.gather(every, out).values():
        for record in seeds.values():
            for key, value in mine.items():
                if record[key] != value:
                    raise ConfigError(
                        f"{out / 'cells' / record['name']}.json was made from other {key} ({record[key]}, commit "
                        f"{record['commit'][:8] or 'unknown'}; here it is {value}): give another --out, or go back to "
                        "what made it"
                    )


def one(each: Cell, out: Path, grid: str, *, keep_workdir: bool) -> None:
    """Run a cell in this process, if it is not there. Raises the errors of `cell.run`."""
    path = cell.path_of(out, each)
    if path.exists():
        terminal.say(f"{path} is there")
        return
    cell.run(each, out, grid, keep_workdir=keep_workdir)
    terminal.say(f"{each.row.name}, seed {each.seed}: {path}")


def every_cell(every: Sequence[Cell], out: Path, start: Callable[[int], int]) -> int:
    """Run the cells that are missing: the first seed of all rows, then the others of the method and its rival.

    `start` runs the cell of an index and returns its exit code. Returns the first that is not 0. After a fault that the
    user can mend, and after a stop, no other cell is begun.
    """
    first, method = every[0].seed, every[-1].row
    if failed := _missing(every, out, start, lambda each: each.seed == first):
        return failed
    rival = judge.nearest_rival(judge.gather(every, out), [each.row for each in _first(every)], first)
    names = {method.name, rival.name if rival else method.name}
    return _missing(every, out, start, lambda each: each.row.name in names)


def _missing(every: Sequence[Cell], out: Path, start: Callable[[int], int], wanted: Callable[[Cell], bool]) -> int:
    code = 0
    for index, each in enumerate(every):
        if code not in STOPPED and wanted(each) and not cell.path_of(out, each).exists():
            terminal.say(f"cell {index} of {len(every)}: {each.row.name}, seed {each.seed}")
            if ended := start(index):
                terminal.say(f"cell {index} ended with exit code {ended}; the same command goes on with it")
                code = ended if ended in STOPPED else code or ended
    return code


def child(index: int) -> int:
    """Run a cell in a process of its own and return its exit code.

    A stop of this process is passed on to it, and is the exit code however the cell then ends.
    """
    command, stopped = [sys.executable, "-m", "tools.ablate", *sys.argv[1:], f"--cell={index}"], []
    with subprocess.Popen(command) as process:

        def stop(signum: int, _: Any) -> None:
            stopped.append(128 + signum)
            process.send_signal(signum)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the child too
            stopped.append(128 + signal.SIGINT)
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return stopped[0] if stopped else code if code >= 0 else 128 - code


def write(every: Sequence[Cell], out: Path, grid: str, experiment: str) -> str:
    """Write the page and the JSON behind it, and return the page.

    Raises ConfigError where no cell is there, or where they cannot be compared.
    """
    records = judge.gather(every, out)
    if not records:
        raise ConfigError(f"no cell of --grid={grid} is in {out / 'cells'}: run the grid first, or give its --out")
    found = judge.summary(grid, experiment, records, [each.row for each in _first(every)])
    text = page.markdown(found)
    atomic.write_text(out / f"{grid}.md", text)
    atomic.write_json(out / f"{grid}.json", found)
    return text


def listed(every: Sequence[Cell], out: Path) -> Iterator[str]:
    """Yield lines: the cells, their rows, how many the grid would run, and how long they would take."""
    there = {each.name: cell.read(path) for each in every if (path := cell.path_of(out, each)).exists()}
    for index, each in enumerate(every):
        state = f"{cell.total_secs(there[each.name]) / 60:.1f} minutes" if each.name in there else "missing"
        yield f"{index:3}  {each.row.name}, seed {each.seed}: {state} ({each.name})"
    for each in _first(every):
        parameters = f"{each.row.parameters:,} parameters beyond the towers"
        yield "; ".join([f"{each.row.name}: {parameters}", *each.row.notes])
    first = len(_first(every))
    others = 2 * (len(every) // first - 1)
    yield f"{first + others} cells: {first} rows, and {others} more of the method and its rival"
    if there:
        hours = sum(map(cell.total_secs, there.values())) / len(there) / 3600
        missing = max(0, first + others - len(there))
        yield f"{missing} are missing: about {missing * hours:.1f} hours, as long as the others took"
    else:
        hours = (first + others) * cost.least_secs(every[-1].cfg) / 3600
        yield f"none is there; the products of their training alone take {hours:.2g} hours here"


def _first(every: Sequence[Cell]) -> list[Cell]:
    """Return the cells of the first seed, one of each row."""
    return [each for each in every if each.seed == every[0].seed]
