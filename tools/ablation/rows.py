"""The rows of a grid as experiments that can be compared: the same pairs, the same training of the towers.

A row is the experiment with a few keys changed. What would make it unfair is settled for all rows of the grid at once,
and what cannot be settled is a note of the row.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError, parse
from bridge_jax.models.placement import is_lower
from bridge_jax.step import optim
from bridge_jax.step.params import param_shapes
from tools.ablation.grids import GRIDS, Changes

BUDGET = 0.05  # share by which the parameters beyond the towers may differ without a note


class Row(NamedTuple):
    """A row of a grid. `settings` are the whole experiment, `cfg` the same, checked."""

    name: str
    settings: ml_collections.ConfigDict
    cfg: Config
    parameters: int  # beyond the towers: bridge and heads
    notes: tuple[str, ...]


def rows(settings: ml_collections.ConfigDict, grid: str) -> list[Row]:
    """Return the rows of `grid` for an experiment; the last one is the method.

    Where a row opens blocks of a tower that lie below its first layer, no row of the grid reads that stage's lower
    states from the cache: cached states are those of a few fixed crops, and the row would be the only one to see more.
    Raises ConfigError, naming the row, where the experiment cannot have it.
    """
    base = guarded(grid, "", lambda: parse(settings))
    changes = dict(guarded(grid, "", lambda: GRIDS[grid].rows(base)))
    method = list(changes)[-1]
    parsed = {name: guarded(grid, name, lambda c=c: parse(changed(settings, c))) for name, c in changes.items()}
    if GRIDS[grid].matched:
        goal = beyond_towers(parsed[method])
        widths = {name: _width(cfg, goal) for name, cfg in parsed.items() if name != method and cfg.bridge.layers}
        changes = {name: {**c, **_shared_width(name, widths)} for name, c in changes.items()}
    uncached = sorted({stage for cfg in parsed.values() for stage in opens_lower(cfg)})
    common = {f"stages.{stage}.cached_crops": 0 for stage in uncached}
    made = {name: changed(settings, {**c, **common}) for name, c in changes.items()}
    parsed = {name: guarded(grid, name, lambda s=s: parse(s)) for name, s in made.items()}
    counts = {name: beyond_towers(cfg) for name, cfg in parsed.items()}
    return [
        Row(name, made[name], cfg, counts[name], tuple(_notes(changes[name], parsed[method], cfg, uncached)))
        for name, cfg in parsed.items()
    ]


def guarded(grid: str, name: str, make: Any) -> Any:
    """Return what `make` makes. A ConfigError of it names the grid and the row."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"--grid={grid}{f', row {name!r}' if name else ''}: {error}") from error


def changed(settings: ml_collections.ConfigDict, changes: Changes) -> ml_collections.ConfigDict:
    """Return a copy of the experiment with `changes` made. A key that is to be left out may be absent."""
    copy = settings.copy_and_resolve_references()
    with copy.unlocked(), copy.ignore_type():
        for key, value in changes.items():
            *sections, last = key.split(".")
            section: Any = copy
            for name in sections:
                section = section[name]
            if value is not None:
                section[last] = value
            elif last in section:
                del section[last]
    return copy


def beyond_towers(cfg: Config) -> int:
    """Return the number of parameters of bridge, heads and decoder."""
    flat = paths.flatten(param_shapes(cfg))
    return sum(math.prod(leaf.shape) for path, leaf in flat.items() if not path.startswith(("vision/", "text/")))


def opens_lower(cfg: Config) -> list[str]:
    """Return the stages that read cached states although they train a block below the first bridged layer."""
    known = paths.every(param_shapes(cfg))
    return [
        stage.name
        for stage in cfg.run_stages
        if stage.cached_crops and any(is_lower(path, cfg) for path in optim.trainable_paths(cfg, stage, known))
    ]


def _shared_width(name: str, widths: Mapping[str, int]) -> dict[str, int]:
    return {"bridge.shared_width": widths[name]} if name in widths else {}


def _width(cfg: Config, goal: int) -> int:
    """Return the shared width, a multiple of the heads, with which `cfg` comes nearest to `goal` parameters.

    For a fixed number of heads the count is a polynomial of degree two in the width, so three widths determine it.
    """
    heads, now = cfg.bridge.heads, cfg.bridge.shared_width
    widths = [now, 2 * now, 3 * now]
    bridges = [dataclasses.replace(cfg.bridge, shared_width=width) for width in widths]
    counts = [beyond_towers(dataclasses.replace(cfg, bridge=bridge)) for bridge in bridges]
    polynomial = np.polynomial.Polynomial.fit(widths, counts, 2)
    tried = np.arange(heads, 4 * now, heads)
    return int(tried[np.argmin(np.abs(polynomial(tried) - goal))])


def _notes(changes: Changes, method: Config, cfg: Config, uncached: list[str]) -> list[str]:
    """Return what a reader has to know of a row beside its name."""
    notes = []
    for key, value in changes.items():
        if key.endswith(".losses"):
            stage = key.split(".")[1]
            now, full = cfg.stages[stage].losses, method.stages[stage].losses
            notes += [f"{stage} without {', '.join(n for n in full if n not in now)}"] if set(full) - set(now) else []
            notes += [f"{stage} with {', '.join(n for n in now if n not in full)}"] if set(now) - set(full) else []
        elif key == "bridge.shared_width":
            notes.append(f"shared width {value}")
    share = beyond_towers(cfg) / beyond_towers(method) - 1
    if abs(share) > BUDGET:
        notes.append(f"another budget: {100 * share:+.0f} % parameters beyond the towers")
    notes += [f"{stage} reads pixels, not the cache" for stage in uncached]
    return notes
