"""Read what a run left in its workdir: its config, its outcome and its log."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge_jax.config import ConfigError, as_json
from bridge_jax.workdir import log, manifest, outcome, provenance
from bridge_jax.workdir.checkpoint import Checkpoints
from configs import common

ABSENT = "absent"  # stands where one of two configs has no such key


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the run. Its steps are those after `start`, up to and with `end`."""

    name: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Story:
    """The contents of a workdir. `torn`: a kill cut the last line of its log, which is left out.

    `starts` says with which code, on which devices and data each start ran (`workdir.provenance`); older runs did not
    record them.
    """

    workdir: str
    config: Mapping[str, Any]
    outcome: Mapping[str, Any]
    entries: Sequence[Mapping[str, float]]
    stages: Sequence[Stage]
    torn: bool
    starts: Sequence[Mapping[str, Any]] = ()

    @property
    def step(self) -> int:
        """Return how far the run came: the outcome file of a killed run is older than its log."""
        return reached(self.outcome, self.entries)

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, in the order of the log."""
        return [(int(entry["step"]), entry[name]) for entry in self.entries if name in entry]

    def names(self, prefix: str) -> list[str]:
        """Return the metrics whose names begin with `prefix`, sorted."""
        return sorted({name for entry in self.entries for name in entry if name.startswith(prefix)})


def read(workdir: str) -> Story:
    """Return the story of a workdir, and change nothing in it.

    Raises ConfigError where the folder is no workdir, where its files are damaged, or where no stage is finished.
    """
    folder = Path(workdir)
    ended = _outcome(folder / outcome.FILE)
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ConfigError(f"{path} is not there: expected a workdir of bridge_jax.main")
    entries, written = log.read(path), path.read_bytes()
    if not manifest.committed(folder / manifest.CHECKPOINTS):
        raise ConfigError(f"{workdir}: no stage is finished: the run has saved no checkpoint yet; {outcome.GO_ON}")
    saves = Checkpoints(workdir, read_only=True)
    config = saves.meta(saves.choose("latest")).config
    stages, step = stages_of(config), reached(ended, entries)
    if step < stages[0].end:
        raise ConfigError(
            f"{workdir}: no stage is finished: the first, {stages[0].name!r}, has {stages[0].end} steps and the run "
            f"stands at step {step}; {outcome.GO_ON}"
        )
    torn = bool(written) and not written.endswith(b"\n")
    return Story(workdir, config, ended, entries, stages, torn, provenance.read(folder))


def reached(ended: Mapping[str, Any], entries: Sequence[Mapping[str, float]]) -> int:
    """Return the last step that the outcome or the log knows of."""
    return max([int(ended["step"]), *(int(entry["step"]) for entry in entries)])


def stages_of(config: Mapping[str, Any]) -> list[Stage]:
    """Return the stages of a stored config, in the order in which they ran."""
    found, start = [], 0
    for name in config["stage_order"]:
        end = start + int(config["stages"][name]["steps"])
        found.append(Stage(name, start, end))
        start = end
    return found


def changes(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (key, value of configs.common.base(), value of the run) of every key in which the two differ.

    Values are JSON. A key that one of the two does not have is ABSENT there.
    """
    base, here = flat(as_json.loads(json.dumps(common.base().to_dict()))), flat(config)
    names = [*here, *(name for name in base if name not in here)]
    pairs = [(name, _json(base, name), _json(here, name)) for name in names]
    return [(name, before, now) for name, before, now in pairs if before != now]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of the leaves of nested mappings; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return leaves


def _json(leaves: Mapping[str, Any], name: str) -> str:
    return json.dumps(leaves[name], ensure_ascii=False) if name in leaves else ABSENT


def _outcome(path: Path) -> dict[str, Any]:
    """Return the record of outcome.json. Raises ConfigError where it is missing or not what Outcome writes."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there: expected a workdir of bridge_jax.main")
    wanted = ("cause", "exit_code", "message", "command", "host", "began", "at", "stage", "starts", "goodput")
    try:
        record = as_json.loads(path.read_text(encoding="utf-8"))
        texts = {name: str(record[name]) for name in wanted}
        secs = {str(name): float(value) for name, value in record["secs"].items()}
        if not all(math.isfinite(value) and value >= 0 for value in secs.values()):
            raise ValueError(f"seconds {secs}")
        return texts | {"step": int(record["step"]), "secs": secs, "goodput": float(record["goodput"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: expected an outcome of bridge_jax ({error!r}); repair or move the file") from error
