"""Benchmark this machine: python -m tools.bench --config=configs/flickr8k.py --workdir=runs/flickr8k --json=now.json

Runs the benchmarks, each in a process of its own, in --rounds turns, and prints one table: the median of each figure,
its smallest and largest, and what a rival reached beside it in the same process. What the machine or the config lacks
is left out, with the reason. `search` needs --workdir, a run with a trained checkpoint; all else starts from nothing.

--json writes the figures. With --against=before.json, written on the same machine with the same config at another
commit, the table says how far each figure has moved: as a ratio to its rival where it has one, because a machine's
speed varies from hour to hour, and "within the rounds" where a round of one commit lies among those of the other.

Run nothing else on the machine meanwhile.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from bridge_jax.config import ConfigError, nearest
from bridge_jax.run import command_line
from bridge_jax.workdir import provenance
from tools import figures
from tools.measured import Figure, Measured, change, conditions, figures_of, read

BENCHMARKS = ("step", "start", "data", "save", "rerank", "decode", "search", "prepare")  # tools.bench_NAME
_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that bridge_jax.main trained in, for `search`.")
_ONLY = flags.DEFINE_list("only", list(BENCHMARKS), f"The benchmarks to run, of {', '.join(BENCHMARKS)}.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times to run each.", lower_bound=1)
_AGAINST = flags.DEFINE_string("against", "", "File that --json wrote at another commit, to compare with.")
_console = Console(soft_wrap=True, highlight=False)


def words_of(name: str) -> list[str]:
    """Return the command of a benchmark."""
    words = _config()
    if name == "save":
        words = [*words, f"--stage={command_line.read_config(_CONFIG).stage_order[0]}"]
    elif name == "search":
        words = [f"--workdir={_WORKDIR.value}", "--parts=search,rerank,rival,build"]
    elif name == "prepare":
        words = []
    return [sys.executable, "-m", f"tools.bench_{name}", *words]


def _config() -> list[str]:
    """Return the words of --config and of its keys."""
    return [word for word in sys.argv[1:] if word.startswith("--config")]


def run(name: str) -> list[Figure] | str:
    """Return the figures of a benchmark, or the reason why it cannot run here. Raises ConfigError where it broke."""
    if name == "search" and not _WORKDIR.value:
        return "needs --workdir"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures"
        done = subprocess.run([*words_of(name), f"--json={file}"], capture_output=True, text=True, check=False)
        if not done.returncode and file.is_file():
            return figures_of(file)
    said = [line for line in done.stderr.splitlines() if line.strip()][-1:]
    if done.returncode == 2:
        return "".join(said).removeprefix("error: ")
    raise ConfigError(f"tools.bench_{name} ended with exit code {done.returncode}: {''.join(said)}")


def measure(names: Sequence[str], rounds: int) -> tuple[dict[str, Measured], dict[str, str]]:
    """Return `<benchmark>: <figure>` -> what was measured, and benchmark -> the reason why it was left out."""
    found: dict[str, list[Figure]] = {}
    left_out: dict[str, str] = {}
    with _console.status("") as status:
        for turn in range(rounds):
            for name in (name for name in names if name not in left_out):
                status.update(f"round {turn + 1} of {rounds}: {name}")
                figures_or_reason = run(name)
                if isinstance(figures_or_reason, str):
                    left_out[name] = figures_or_reason
                    continue
                for figure in figures_or_reason:
                    found.setdefault(f"{name}: {figure.name}", []).append(figure)
    return {name: _together(rounds_of) for name, rounds_of in found.items()}, left_out


def _together(rounds: Sequence[Figure]) -> Measured:
    first, beside = rounds[0], [figure.beside for figure in rounds if figure.beside is not None]
    return Measured(first.better, tuple(figure.value for figure in rounds), first.rival, tuple(beside))


def table(found: Mapping[str, Measured], before: Mapping[str, Measured]) -> Table:
    """Return the figures as people read them."""
    shown = Table(title=f"medians of {_ROUNDS.value} rounds")
    for title in ("figure", "median", "rounds", "beside it", *(("before", "better by") if before else ())):
        shown.add_column(title, justify="left" if title in ("figure", "beside it") else "right")
    for name, one in found.items():
        beside = f"{one.rival} {_number(statistics.median(one.beside))}" if one.beside else ""
        cells = [name, _number(statistics.median(one.values)), f"{_number(min(one.values))} to "
                 f"{_number(max(one.values))}", beside]  # fmt: skip
        if before:
            cells += ["", ""]
            if name in before:
                cells[-2:] = _number(statistics.median(before[name].values)), change(before[name], one)
        shown.add_row(*cells)
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(argv: list[str]) -> None:
    """Run the benchmarks, and print and write what they measured."""
    del argv
    for name in _ONLY.value:
        if name not in BENCHMARKS:
            raise ConfigError(f"--only: {name!r} is no benchmark; {nearest(name, BENCHMARKS)}")
    command_line.read_config(_CONFIG)
    now = conditions(_config())
    before = read(Path(_AGAINST.value), now) if _AGAINST.value else {}
    found, left_out = measure(_ONLY.value, _ROUNDS.value)
    _console.print(table(found, before))
    for name, reason in left_out.items():
        _console.print(f"{name} was left out: {reason}")
    if figures.JSON.value:
        told = {**provenance.commit(), "conditions": now, "jax": jax.__version__, "figures": found}
        Path(figures.JSON.value).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
