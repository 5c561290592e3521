"""Keep the figures of a benchmark beside what it prints: --json=FILE of every tools.bench_*, which tools.bench reads.

figures.keep("pairs/s of align", 312.0, figures.MORE)
figures.keep("ms of a search", 6.7, figures.LESS, rival="CLIP bi-encoder", beside=18.2)
"""

import json
from pathlib import Path

from absl import flags

from tools.measured import LESS, MORE, Figure

__all__ = ["JSON", "LESS", "MORE", "keep"]
JSON = flags.DEFINE_string("json", "", "File that the figures are added to, for programs.")


def keep(name: str, value: float, better: str, rival: str = "", beside: float | None = None) -> None:
    """Add a figure to the file of --json, if there is one."""
    if JSON.value:
        with Path(JSON.value).open("a", encoding="utf-8") as file:
            file.write(json.dumps(Figure(name, value, better, rival, beside)) + "\n")
