"""Keep the rankings of a split in the workdir: `WORKDIR/rankings/DATASET_SPLIT.npz`, written as a whole.

Raises ConfigError for a file that is none.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridge_jax.config import ConfigError, as_json
from bridge_jax.evals.scores.rankings import Ranked, Rankings
from bridge_jax.workdir import atomic

FOLDER = "rankings"
_SIDES = ("text_to_image", "image_to_text")


class About(NamedTuple):
    """The split that was ranked, the checkpoint that ranked it, and the split's fingerprint (`records.fingerprint`)."""

    dataset: str
    split: str
    step: int
    data: str


def write(workdir: Path, about: About, found: Rankings) -> Path:
    """Write the rankings in place of earlier ones of the same split, and return the file."""
    arrays = {name: np.asarray(value) for name, value in found._asdict().items() if name not in _SIDES}
    for side in _SIDES:
        arrays |= {f"{side}/{name}": value for name, value in found.direction(side)._asdict().items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, about=np.array(json.dumps(about._asdict())), **arrays)
    path = workdir / FOLDER / f"{about.dataset}_{about.split}.npz"
    path.parent.mkdir(exist_ok=True)
    atomic.write_bytes(path, content.getvalue())
    return path


def read(workdir: Path) -> list[tuple[About, Rankings]]:
    """Return the rankings of every split that has some, by file name."""
    return [_read(path) for path in sorted((workdir / FOLDER).glob("*.npz"))]


def _read(path: Path) -> tuple[About, Rankings]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
        about = About(**as_json.loads(str(arrays.pop("about"))))
        sides = {side: Ranked(**{name: arrays.pop(f"{side}/{name}") for name in Ranked._fields}) for side in _SIDES}
        weight = float(arrays.pop("weight"))
        return about, Rankings(**sides, **arrays, weight=weight)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: expected the rankings of a split ({error!r}); move the file away") from error
