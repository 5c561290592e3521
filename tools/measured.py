"""Figures of benchmarks: of one process, of several rounds, and how far they moved from one commit to another."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bridge_jax.config import ConfigError, as_json

MORE, LESS = "more", "less"  # which is better


class Figure(NamedTuple):
    """A figure of a benchmark, and what a rival reached beside it: in turns, in the same process."""

    name: str  # its unit is in it
    value: float
    better: str  # MORE or LESS
    rival: str = ""
    beside: float | None = None  # in the same unit


def figures_of(file: Path) -> list[Figure]:
    """Return the figures that a process left in a file, in their order."""
    return [Figure(*as_json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


class Measured(NamedTuple):
    """A figure of each round."""

    better: str
    values: tuple[float, ...]
    rival: str = ""
    beside: tuple[float, ...] = ()  # what the rival reached in each round

    @property
    def fair(self) -> tuple[float, ...]:
        """Return the values that two commits are compared by: those over the rival's, where there is one."""
        return tuple(map(float.__truediv__, self.values, self.beside)) if self.beside else self.values


def conditions(config: Sequence[str]) -> dict[str, Any]:
    """Return what two files must share to be compared: the machine, and the words of --config."""
    device = jax.devices()[0]
    machine = {"device": device.device_kind, "devices": jax.device_count(), "host": platform.node()}
    return machine | {"cores": len(os.sched_getaffinity(0)), "config": list(config)}


def read(file: Path, now: Mapping[str, Any]) -> Mapping[str, Measured]:
    """Return the figures that --json wrote. Raises ConfigError where its conditions were others than those of `now`."""
    try:
        told = as_json.loads(file.read_text(encoding="utf-8"))
        found = {
            name: Measured(better, tuple(values), rival, tuple(beside))
            for name, (better, values, rival, beside) in told["figures"].items()
        }
        before, commit = told["conditions"], told["commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--against: {file} is no file of tools.bench --json ({error!r})") from error
    if before != now:
        raise ConfigError(f"--against: {file} was measured with {before}, and this is {now}: measure {commit} anew")
    return found


def change(before: Measured, now: Measured) -> str:
    """Return how far a figure has moved, in percent of what it was; more is better for all."""
    ratio = statistics.median(now.fair) / statistics.median(before.fair)
    ratio = ratio if now.better == MORE else 1 / ratio
    apart = max(before.fair) < min(now.fair) or max(now.fair) < min(before.fair)
    return f"{100 * (ratio - 1):+.1f} %" + ("" if apart else ", within the rounds")
