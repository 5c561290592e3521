"""Run a grid of experiments that differ in one thing, and judge whether the method's form of it is the best.

    pip install 'bridge_jax[ablate]'
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
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from bridge_jax.config import ConfigError, require_one_of
from bridge_jax.run import command_line, terminal
from tools.ablation.grids import GRIDS

_CONFIG = command_line.define_config()
_GRID = flags.DEFINE_string("grid", None, f"The grid: {', '.join(GRIDS)}.")
_OUT = flags.DEFINE_string("out", "", "Folder of cells and pages, shared by all grids; else runs/ablate_CONFIG.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds: the first for every row, the others for two rows.")
_CELL = flags.DEFINE_integer("cell", None, "Run only this cell of the list that --dry_run prints.", lower_bound=0)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the cells, how many are to run and for how long, then exit.")
_JUDGE = flags.DEFINE_bool("judge", False, "Run nothing; make the page of the cells that are there.")
_KEEP = flags.DEFINE_bool("keep_workdirs", False, "Keep the workdir of a finished cell, with its checkpoints.")


def main(argv: list[str]) -> None:
    """List the cells, run one or all of them, or judge those that are there."""
    del argv
    grid, seeds = command_line.required(_GRID), _numbers(_SEEDS.value)
    require_one_of("--grid", grid, GRIDS)
    if _CONFIG.value is None:
        raise ConfigError("--config is missing: name an experiment, such as --config=configs/shapes.py")
    experiment = config_flags.get_config_filename(flags.FLAGS["config"])
    out = Path(_OUT.value or f"runs/ablate_{_stem(experiment)}")
    try:
        from tools.ablation import run
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'bridge_jax[ablate]'") from error
    if _CELL.value is None and not _DRY_RUN.value:
        jax.config.update("jax_platforms", "cpu")  # an accelerator is for the processes of the cells
    every = run.cells(_CONFIG.value, grid, seeds)
    if _DRY_RUN.value:
        for line in run.listed(every, out):
            terminal.say(line)
        return
    if not _JUDGE.value:
        run.check(every, out, grid)
    if _CELL.value is not None:
        if _CELL.value >= len(every):
            raise ConfigError(f"--cell is {_CELL.value}; this grid has the cells 0 to {len(every) - 1}")
        run.one(every[_CELL.value], out, grid, keep_workdir=_KEEP.value)
        return
    code = 0 if _JUDGE.value else run.every_cell(every, out, run.child)
    if code not in run.STOPPED:
        terminal.say(run.write(every, out, grid, experiment))
        terminal.say(f"{out / grid}.md and {grid}.json")
    sys.exit(code)


def _numbers(seeds: Sequence[str]) -> list[int]:
    """Return the seeds, each once. Raises ConfigError."""
    if not seeds or not all(seed.strip().isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds is {','.join(seeds)!r}; expected numbers, such as 0,1,2")
    return list(dict.fromkeys(map(int, seeds)))


def _stem(experiment: str) -> str:
    """Return the name of a config for a folder: configs/shapes.py:task=retrieval,time=long is shapes_retrieval_long."""
    file, _, variant = experiment.partition(":")
    return "_".join([Path(file).stem, *re.findall(r"=(\w+)", variant)])


if __name__ == "__main__":
    command_line.run(main)
