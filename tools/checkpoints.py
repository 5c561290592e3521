"""List, verify, prune and copy the checkpoints of a workdir.

    python -m tools.checkpoints list --workdir=runs/shapes
    python -m tools.checkpoints verify --workdir=runs/shapes [--step=700]
    python -m tools.checkpoints prune --workdir=runs/shapes --keep_last=1
    python -m tools.checkpoints copy --workdir=runs/shapes --step=best --to=runs/shapes_best

`verify` reads every file and compares its SHA-256; where one differs, it names the file and exits with code 5. `prune`
keeps the newest and the best checkpoints and removes damaged ones. `copy` makes a workdir that can be evaluated,
resumed or started from.
"""

import datetime
import shutil
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from bridge_jax.config import ConfigError, nearest
from bridge_jax.run import command_line
from bridge_jax.workdir import atomic, lock, manifest
from bridge_jax.workdir.checkpoint import FROZEN, Checkpoints
from bridge_jax.workdir.meta import score_of
from bridge_jax.workdir.outcome import StorageError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that bridge_jax.main trained in.")
_STEP = flags.DEFINE_string(
    "step", "", "A step, `best` or `latest`; without it, verify checks all and copy takes the best."
)
_KEEP_LAST = flags.DEFINE_integer(
    "keep_last", 1, "prune: number of newest checkpoints to keep besides the best.", lower_bound=1
)
_TO = flags.DEFINE_string("to", None, "copy: workdir to make.")


def show(saves: Checkpoints) -> None:
    """Print a line for every checkpoint, whole or damaged."""
    table, faults = Table(), []
    for column in ("step", "stage", "score", "MiB", "state", "saved"):
        table.add_column(column)
    best = saves.best() if any(not saves.fault(step) for step in saves.steps()) else None
    for step in saves.steps():
        fault = saves.fault(step)
        scores = {} if fault else saves.scores(step)
        cells = ["" if fault else saves.meta(step).stage, f"{score_of(scores):.1f}" if scores else ""]
        state = "damaged" if fault else "whole, best" if step == best else "whole"
        faults += [f"{step} is damaged: {fault}"] if fault else []
        saved = datetime.datetime.fromtimestamp((saves.folder / str(step) / "params").stat().st_mtime)
        table.add_row(str(step), *cells, f"{_mib(saves.folder / str(step)):.1f}", state, f"{saved:%Y-%m-%d %H:%M}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for line in faults:
        console.print(line)
    if (saves.folder / FROZEN).is_dir():
        console.print(f"and {_mib(saves.folder / FROZEN):.1f} MiB of frozen parameters, shared by all checkpoints")


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def verify(saves: Checkpoints, steps: list[int]) -> None:
    """Check the hashes of `steps`. Raises StorageError naming every damaged one."""
    faults = {step: fault for step in steps if (fault := saves.fault(step))}
    for step in steps:
        print(f"{step}: {faults.get(step, 'whole')}")
    if faults:
        raise StorageError(
            f"{saves.folder}: {len(faults)} of {len(steps)} checkpoints are damaged: {', '.join(map(str, faults))}"
        )


def prune(saves: Checkpoints, keep_last: int) -> None:
    """Remove all but the newest `keep_last` whole checkpoints and the best. Raises StorageError where none is whole."""
    whole = [step for step in saves.steps() if not saves.fault(step)]
    best = saves.best()  # raises where none is whole
    for step in saves.steps():
        if step not in whole[-keep_last:] and step != best:
            atomic.remove(saves.folder / str(step))
            print(f"{step}: removed")


def copy(saves: Checkpoints, step: int, to: Path) -> None:
    """Copy a whole checkpoint, and the frozen parameters that it needs, to the workdir `to`; commit it last.

    Raises ConfigError where `to` already has the step or other frozen parameters, StorageError where a copy differs.
    """
    target = to / manifest.CHECKPOINTS
    folders = [FROZEN, str(step)] if saves.meta(step).frozen else [str(step)]
    for name in folders:
        source, aside = saves.folder / name, target / f"{name}.copying"
        if (target / name).exists():
            if name == FROZEN and manifest.read(target / name) == manifest.read(source):
                continue
            raise ConfigError(f"--to: {target / name} exists already; give another folder")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
        if fault := manifest.fault(aside):
            raise StorageError(f"{aside}: {fault}: the copy differs from the original; try again")
        aside.rename(target / name)


def main(argv: list[str]) -> None:
    """Run the command that stands before the flags."""
    word, known = argv[1] if len(argv) > 1 else "", ("list", "verify", "prune", "copy")
    if word not in known:
        raise ConfigError(f"expected a command before the flags, got {word!r}; {nearest(word, known)}")
    saves = Checkpoints(command_line.required(_WORKDIR), read_only=True)
    if word == "list":
        show(saves)
    elif word == "verify":
        verify(saves, [saves.choose(_STEP.value)] if _STEP.value else saves.steps())
    elif word == "prune":
        with lock.hold(saves.folder.parent):
            prune(saves, _KEEP_LAST.value)
    else:
        to = Path(command_line.required(_TO))
        with lock.hold(to):
            copy(saves, saves.choose(_STEP.value or "best"), to)


if __name__ == "__main__":
    command_line.run(main, positional=1)
