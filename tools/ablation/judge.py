"""Turn the cells of a grid into rows and verdicts: what the page says, as plain values that JSON can hold.

A cell's final score is the reranked one where there is a bridge, else the unimodal one.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridge_jax.config import ConfigError
from bridge_jax.evals.scores.recall import DIRECTIONS
from tools.ablation import cell, verdict
from tools.ablation.grids import GRIDS
from tools.ablation.rows import Row

SCORES = ("unimodal", "final")
SAME = {"data": "data", "code": "code", "pairs": "number of pairs"}  # key of a cell -> what all cells of a grid share


class Claim(NamedTuple):
    """That the method beats a rival, on a split, by a score, in a direction; and the seeds that both have."""

    rival: str
    split: str
    score: str
    direction: str
    seeds: tuple[int, ...]


Records = Mapping[str, Mapping[int, Mapping[str, Any]]]  # row -> seed -> the record of a cell


def gather(cells: Sequence[cell.Cell], out: Path) -> Records:
    """Return the cells that are there. Raises ConfigError, naming two files, where they cannot be compared."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    first: tuple[Path, Mapping[str, Any]] | None = None
    for each in cells:
        if (path := cell.path_of(out, each)).exists():
            record = cell.read(path)
            first = first or (path, record)
            compare(first, (path, record))
            found.setdefault(each.row.name, {})[each.seed] = record
    return found


def compare(one: tuple[Any, Mapping[str, Any]], other: tuple[Any, Mapping[str, Any]]) -> None:
    """Raise ConfigError where two cells, each with its file, differ in what all cells of a grid share."""
    for key, what in SAME.items():
        if one[1][key] != other[1][key]:
            here, there = (f"{each[key]}, commit {each['commit'][:8] or 'unknown'}" for each in (one[1], other[1]))
            raise ConfigError(
                f"{one[0]} and {other[0]} differ in their {what} ({here}; {there}), so they cannot be compared: move "
                "one away, or give each its own --out"
            )


def final(record: Mapping[str, Any], score: str, direction: str) -> str:
    """Return the name of a score in a cell's ranks: `final` is the best order that the row has."""
    split = next(iter(record["splits"].values()))
    bridged = f"rerank/{direction}" in split["ranks"]
    return f"{'rerank' if score == 'final' and bridged else 'unimodal'}/{direction}"


def mean_recall(record: Mapping[str, Any]) -> float:
    """Return the mean final R@1 over all splits and both directions, by which the nearest rival is chosen."""
    values = [
        split["recalls"][final(record, "final", direction)]["r@1"]
        for split in record["splits"].values()
        for direction in DIRECTIONS
    ]
    return float(np.mean(values))


def nearest_rival(records: Records, rows: Sequence[Row], seed: int) -> Row | None:
    """Return the row with the best final R@1 beside the method, which is the last; None where no cell is there."""
    there = [row for row in rows[:-1] if seed in records.get(row.name, {})]
    return max(there, key=lambda row: mean_recall(records[row.name][seed]), default=None)


def table(records: Records, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each row and split that has a cell: R@1 of every score, mean and SD over seeds."""
    return [
        {
            "row": row.name,
            "split": split,
            "seeds": list(seeds),
            "parameters_beyond_towers": row.parameters,
            "minutes": round(_secs(seeds) / 60, 1),
            **_recalls([each["splits"][split]["recalls"] for each in seeds.values()]),
        }
        for row in rows
        if (seeds := records.get(row.name, {}))
        for split in next(iter(seeds.values()))["splits"]
    ]


def _recalls(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the mean R@1 of each score and, of several seeds, its standard deviation."""
    values = {name: [each[name]["r@1"] for each in seeds] for name in seeds[0]}
    spread = {name: round(float(np.std(each, ddof=1)), 3) for name, each in values.items() if len(each) > 1}
    return {"r@1": {name: round(float(np.mean(each)), 3) for name, each in values.items()}, "sd": spread}


def verdicts(records: Records, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the verdict on every claim. Holm's correction is over those that have enough seeds to be decided."""
    method, every = rows[-1].name, list(claims(records, rows))
    found = [_difference(records, method, claim) for claim in every]
    ps = verdict.corrected(found)
    tests = sum(p is not None for p in ps) or len(ps)
    secs = {name: _secs(seeds) for name, seeds in records.items()}
    return [
        {
            "claim": f"{method} is better than {claim.rival}",
            **claim._asdict(),
            **{name: value for name, value in each._asdict().items() if name != "seeds"},
            "p_holm": p,
            "verdict": verdict.word(each, p),
            "wanted": _wanted(each, p, tests, secs[method] + secs[claim.rival]),
        }
        for claim, each, p in zip(every, found, ps, strict=True)
    ]


def claims(records: Records, rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield every claim on which there are cells: the method, the last row, is better than a rival."""
    for row in rows[:-1]:
        mine, theirs = (records.get(each.name, {}) for each in (rows[-1], row))
        seeds = tuple(sorted(mine.keys() & theirs.keys()))
        for split in mine[seeds[0]]["splits"] if seeds else ():
            yield from (Claim(row.name, split, *each, seeds) for each in itertools.product(SCORES, DIRECTIONS))


def _difference(records: Records, method: str, claim: Claim) -> verdict.Difference:
    sides = []
    for name in (method, claim.rival):
        cells = [records[name][seed] for seed in claim.seeds]
        names = [final(each, claim.score, claim.direction) for each in cells]
        ranks = [each["splits"][claim.split]["ranks"][name] for each, name in zip(cells, names, strict=True)]
        sides.append([np.array(each) for each in ranks])
    photos = records[method][claim.seeds[0]]["splits"][claim.split]["photo_of_query"][claim.direction]
    return verdict.difference(sides[0], sides[1], np.array(photos))


def _secs(seeds: Mapping[int, Mapping[str, Any]]) -> float:
    """Return the mean seconds of a row's cells."""
    return float(np.mean([cell.total_secs(each) for each in seeds.values()]))


def _wanted(found: verdict.Difference, p: float | None, tests: int, secs: float) -> dict[str, Any] | None:
    """Return what would decide a claim that is undecided: seeds with their device hours, or photos."""
    if not verdict.word(found, p).startswith("undecided"):
        return None
    if found.seeds < 2:
        return {"seeds": verdict.SEEDS, "photos": None, "hours": (verdict.SEEDS - found.seeds) * secs / 3600}
    seeds, photos = verdict.wanted(found, tests)
    return {"seeds": seeds, "photos": photos, "hours": max(0, seeds - found.seeds) * secs / 3600 if seeds else None}


def summary(grid: str, experiment: str, records: Records, rows: Sequence[Row]) -> dict[str, Any]:
    """Return all that the page of a grid says."""
    every = [record for seeds in records.values() for record in seeds.values()]
    probes = [
        {"row": row.name, "seed": seed, **record["leak_probe"]}
        for row in rows
        for seed, record in records.get(row.name, {}).items()
    ]
    shared = {key: every[0][key] for key in ("code", "data", "pairs")}
    return {
        "grid": grid,
        "method": rows[-1].name,
        "source": GRIDS[grid].source,
        "experiment": experiment,
        **shared,
        "commits": sorted({record["commit"] for record in every}),
        "devices": sorted({record["device"] for record in every}),
        "cells": sorted(record["name"] for record in every),
        "notes": {row.name: list(row.notes) for row in rows},
        "table": table(records, rows),
        "leak_probe": probes,
        "verdicts": verdicts(records, rows),
    }
