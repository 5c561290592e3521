"""Record the pictures and captions that a run could not read in WORKDIR/broken_data.jsonl, and limit their number.

A line is `step`, `stage`, `file`, `fault`, `record` (its position in the prepared split), `caption` (its position in
the record, -1: the picture) and `share`: 1 for a picture, 1/n for one of n captions. Every broken part has one line,
written at the step that first drew it, so the count is a function of seed and step like the examples themselves.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.records import Record, broken_part
from bridge_jax.workdir import atomic

FILE = "broken_data.jsonl"
_SHOWN = 5  # broken parts that an error lists


class BrokenLog:
    """The broken parts of `records` that a run has met so far.

    Entries of the file after `resume_step` are dropped: those steps run again. Only process 0 writes. Every host knows
    all broken parts, because `take` receives those of all hosts' rows. Raises ConfigError for a damaged file.
    """

    def __init__(self, workdir: Path, resume_step: int, records: Sequence[Record], limit: float):
        self._path, self._records, self._limit = workdir / FILE, records, limit
        self._met: dict[tuple[int, int], dict[str, Any]] = {}
        for number, line in enumerate(_lines(self._path), 1):
            try:
                entry = as_json.loads(line)
                if entry["step"] <= resume_step:
                    self._met[entry["record"], entry["caption"]] = entry
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self._path}, line {number}: expected a log entry; move the file away") from error
        self._replace()

    @property
    def count(self) -> int:
        """Number of broken pictures and captions."""
        return len(self._met)

    def take(self, step: int, stage: str, broken: np.ndarray) -> list[str]:
        """Record the broken parts of a step and return a line for each that is new.

        `broken`: int32 [B,2], as `types.Batch.broken`. Raises ConfigError when the shares of all broken parts add up to
        more than the limit, a share of all records.
        """
        new = []
        for record, caption in np.asarray(broken).tolist():
            if record >= 0 and (record, caption) not in self._met:
                file, fault, share = broken_part(self._records, record, caption)
                entry = {"step": step, "stage": stage, "file": file, "fault": fault}
                self._met[record, caption] = entry | {"record": record, "caption": caption, "share": share}
                new.append(f"{file}: {fault}")
        if new:
            self._replace()
            self._check()
        return new

    def _check(self) -> None:
        entries, total = list(self._met.values()), len(self._records)
        if sum(entry["share"] for entry in entries) > self._limit * total:
            shown = "; ".join(f"{entry['file']}: {entry['fault']}" for entry in entries[:_SHOWN])
            more = f"; and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
            raise ConfigError(
                f"more than {self._limit:.2%} of {total} training records are broken: {shown}{more}. All are in "
                f"{self._path}: repair them and prepare the data set again, or raise config.data.broken_limit"
            )

    def _replace(self) -> None:
        if jax.process_index() == 0 and (self._met or self._path.exists()):
            lines = (json.dumps(entry) + "\n" for entry in self._met.values())
            atomic.write_text(self._path, "".join(lines))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
