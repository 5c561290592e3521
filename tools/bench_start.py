"""Benchmark the start of a run: python -m tools.bench_start --config=configs/shapes.py

Starts `python -m bridge_jax.main` with the config as a user does, and kills it when it has logged its first step. A
cold start has empty caches: it compiles its programs, and fills the cache of lower states where the first stage has
one. A warm one finds both. Prints the median seconds from the command to the first step, of each. Run nothing else on
the machine meanwhile.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from bridge_jax.config import ConfigError
from bridge_jax.run import command_line
from tools import figures

_CONFIG = command_line.define_config()
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Cold and warm starts to time; the medians are printed.", lower_bound=1)
_POLLED_SECS = 0.01
_console = Console(soft_wrap=True, highlight=False)


def seconds(words: Sequence[str], folder: Path) -> float:
    """Return the seconds from the command to its first logged step. Raises ConfigError where it ends before."""
    log, errors = folder / "workdir" / "metrics.jsonl", folder / "stderr"
    command = [sys.executable, "-m", "bridge_jax.main", *words, f"--workdir={log.parent}"]
    command += ["--config.log_every_steps=1"]
    started = time.perf_counter()
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
    try:
        while not (log.is_file() and '"train/' in log.read_text(encoding="utf-8")):
            if process.poll() is not None:
                last = errors.read_text(encoding="utf-8").strip().splitlines()[-1:]
                raise ConfigError(f"the run ended before its first step: {' '.join(last).removeprefix('error: ')}")
            time.sleep(_POLLED_SECS)
        return time.perf_counter() - started
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(argv: list[str]) -> None:
    """Time cold and warm starts in turns."""
    del argv
    command_line.read_config(_CONFIG)
    words = [word for word in sys.argv[1:] if word.startswith("--config")]
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory() as cache:
            for taken in times.values():
                with tempfile.TemporaryDirectory() as folder:
                    taken.append(seconds([*words, f"--config.cache_dir={cache}"], Path(folder)))
    for way, taken in times.items():
        low, high = min(taken), max(taken)
        _console.print(f"{way}: {statistics.median(taken):.1f} s to the first step ({low:.1f} to {high:.1f})")
        figures.keep(f"s to the first step, {way}", statistics.median(taken), figures.LESS)


if __name__ == "__main__":
    command_line.run(main)
