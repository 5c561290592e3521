"""Run a grid of experiments that differ in one thing, and judge whether the method's form of it is the best.

    python -m tools.ablate --config=configs/shapes.py --grid=design --dry_run
    python -m tools.ablate --config=configs/shapes.py --grid=design
    python -m tools.ablate --config=configs/shapes.py --grid=design --cell=3
    python -m tools.ablate --config=configs/shapes.py --grid=design --judge

Grids: design, placement, losses, layers (the paper's Tables 5, 6, 4, 1), leak (the form of the fused loss) and mining
(where partners come from). docs/ablations.md defines rows, fairness and verdicts.

A cell is a row with one seed. It trains in a process of its own, resumes if it was killed, and leaves one JSON in
OUT/cells; a cell that is there is skipped. The first seed is run for every row, the others for the method and for the
row that comes nearest to it. `--cell=K` runs one cell of the list that `--dry_run` prints. The table is OUT/GRID.md,
and what is behind it OUT/GRID.json.

Exit code 2: it cannot be done, with one line that says why; else that of the first cell that failed. Cells that are
there stay.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from bridge_jax.config import ConfigError, nearest
from bridge_jax.run import command_line, distributed, terminal
from bridge_jax.workdir import atomic
from tools.ablation import cell, cost, judge, page
from tools.ablation.cell import Cell
from tools.ablation.grids import GRIDS
from tools.ablation.rows import guarded, rows

_CONFIG = command_line.define_config()
_GRID = flags.DEFINE_string("grid", None, f"The grid: {', '.join(GRIDS)}.")
_OUT = flags.DEFINE_string("out", "", "Folder of cells and tables, shared by all grids; else runs/ablate_CONFIG.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds: the first for every row, the others for two rows.")
_CELL = flags.DEFINE_integer("cell", None, "Run only this cell of the list that --dry_run prints.", lower_bound=0)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the cells, how many are to run and for how long, then exit.")
_JUDGE = flags.DEFINE_bool("judge", False, "Run nothing; make the table of the cells that are there.")
_KEEP = flags.DEFINE_bool("keep_workdirs", False, "Keep the workdir of a finished cell, with its checkpoints.")
STOPPED = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes after which no other cell is begun


def main(argv: list[str]) -> None:
    """List, run one, run all, or judge."""
    del argv
    grid, seeds = _grid(), _seeds()
    if _CONFIG.value is None:
        raise ConfigError("--config is missing: name an experiment, such as --config=configs/shapes.py")
    experiment = config_flags.get_config_filename(flags.FLAGS["config"])
    out = Path(_OUT.value or f"runs/ablate_{_stem(experiment)}")
    every = cell.cells(rows(_CONFIG.value, grid), seeds)
    if _DRY_RUN.value:
        _list(every, out)
        return
    if not _JUDGE.value:
        _refuse_others(every, out, grid)
    if _CELL.value is not None:
        if _CELL.value >= len(every):
            raise ConfigError(f"--cell is {_CELL.value}; this grid has the cells 0 to {len(every) - 1}")
        one(every[_CELL.value], out, grid)
        return
    code = 0 if _JUDGE.value else run_all(every, out, _child)
    if code not in STOPPED:
        write(every, out, grid, experiment)
    sys.exit(code)


def one(each: Cell, out: Path, grid: str) -> None:
    """Run a cell in this process, if it is not there."""
    path = cell.path_of(out, each)
    if path.exists():
        terminal.say(f"{path} is there")
        return
    terminal.say(f"{each.row.name}, seed {each.seed}: {cell.run(each, out, grid, keep_workdir=_KEEP.value)}")


def run_all(every: Sequence[Cell], out: Path, start: Callable[[int], int]) -> int:
    """Run the cells that are missing: the first seed of all rows, then the others of the method and its rival.

    `start` runs the cell of an index and returns its exit code. Returns the first that is not 0. After a fault that the
    user can mend, and after a stop, no other cell is begun.
    """
    first, method, failed = every[0].seed, every[-1].row, 0

    def run(wanted: Callable[[Cell], bool]) -> int:
        code = 0
        for index, each in enumerate(every):
            if code not in STOPPED and wanted(each) and not cell.path_of(out, each).exists():
                terminal.say(f"cell {index} of {len(every)}: {each.row.name}, seed {each.seed}")
                if ended := start(index):
                    terminal.say(f"cell {index} ended with exit code {ended}; the same command goes on with it")
                    code = ended if ended in STOPPED else code or ended
        return code

    failed = run(lambda each: each.seed == first)
    if failed:
        return failed
    rival = judge.nearest_rival(judge.gather(every, out), [each.row for each in every if each.seed == first], first)
    names = {method.name, rival.name if rival else method.name}
    return run(lambda each: each.row.name in names)


def write(every: Sequence[Cell], out: Path, grid: str, experiment: str) -> None:
    """Write the table and the JSON behind it. Raises ConfigError where no cell is there or they cannot be compared."""
    ordered = [each.row for each in every if each.seed == every[0].seed]
    records = judge.gather(every, out)
    if not records:
        raise ConfigError(f"no cell of --grid={grid} is in {out / 'cells'}: run the grid first, or give its --out")
    found = judge.summary(grid, experiment, records, ordered)
    text = page.markdown(found)
    atomic.write_text(out / f"{grid}.md", text)
    atomic.write_json(out / f"{grid}.json", found)
    terminal.say(text)
    terminal.say(f"{out / grid}.md and {grid}.json")


def _grid() -> str:
    name = command_line.required(_GRID)
    if name not in GRIDS:
        raise ConfigError(f"--grid is {name!r}; {nearest(name, GRIDS)}")
    return name


def _seeds() -> list[int]:
    if not _SEEDS.value or not all(seed.strip().isdecimal() for seed in _SEEDS.value):
        raise ConfigError(f"--seeds is {','.join(_SEEDS.value)!r}; expected numbers, such as 0,1,2")
    return list(dict.fromkeys(map(int, _SEEDS.value)))


def _stem(experiment: str) -> str:
    """Return the name of a config for a folder: configs/shapes.py:task=retrieval,time=long is shapes_retrieval_long."""
    file, _, variant = experiment.partition(":")
    return "_".join([Path(file).stem, *re.findall(r"=(\w+)", variant)])


def _refuse_others(every: Sequence[Cell], out: Path, grid: str) -> None:
    """Raise ConfigError where a row cannot run, or a cell that is there was made by other code or from other data."""
    for each in every:
        if each.seed == every[0].seed:
            guarded(grid, each.row.name, partial(cell.check, each.cfg))
    records = judge.gather(every, out)
    mine = {"code": distributed.code(), "data": cell.fingerprint(every[0].cfg)}
    for seeds in records.values():
        for record in seeds.values():
            for key, value in mine.items():
                if record[key] != value:
                    raise ConfigError(
                        f"{out / 'cells' / record['name']}.json was made from other {key} ({record[key]}, commit "
                        f"{record['commit'][:8] or 'unknown'}; here it is {value}): give another --out, or go back to "
                        "what made it"
                    )


def _list(every: Sequence[Cell], out: Path) -> None:
    """Print the cells, how many the grid would run, and how long they would take."""
    there = {each.name: cell.read(path) for each in every if (path := cell.path_of(out, each)).exists()}
    for index, each in enumerate(every):
        state = f"{cell.total_secs(there[each.name]) / 60:.1f} minutes" if each.name in there else "missing"
        terminal.say(f"{index:3}  {each.row.name}, seed {each.seed}: {state} ({each.name})")
    first = [each for each in every if each.seed == every[0].seed]
    for each in first:
        parameters = f"{each.row.parameters:,} parameters beyond the towers"
        terminal.say("; ".join([f"{each.row.name}: {parameters}", *each.row.notes]))
    others = 2 * (len(every) // len(first) - 1)
    terminal.say(f"{len(first) + others} cells: {len(first)} rows, and {others} more of the method and its rival")
    if there:
        mean = sum(map(cell.total_secs, there.values())) / len(there)
        missing = max(0, len(first) + others - len(there))
        terminal.say(f"{missing} are missing: about {missing * mean / 3600:.1f} hours, as long as the others took")
    else:
        least = (len(first) + others) * cost.least_secs(first[-1].cfg)
        terminal.say(f"none is there; the products of their training alone take {least / 3600:.2g} hours here")


def _child(index: int) -> int:
    """Run a cell in a process of its own and return its exit code. A stop of this process is passed on to it."""
    command = [sys.executable, "-m", "tools.ablate", *sys.argv[1:], f"--cell={index}"]
    with subprocess.Popen(command) as child:
        before = signal.signal(signal.SIGTERM, lambda signum, _: child.send_signal(signum))
        try:
            code = child.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the child too
            code = child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    command_line.run(main)
