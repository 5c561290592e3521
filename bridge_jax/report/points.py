"""The points on the map of embeddings: made by the trained and the untrained towers, or read where they were kept."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bridge_jax.config import Config, ConfigError
from bridge_jax.report import embedding
from bridge_jax.report.embedding import Layout
from bridge_jax.report.gallery import Gallery
from bridge_jax.step.predict import Predict
from bridge_jax.types import Params, Progress
from bridge_jax.workdir.rankings import About

TRAINED, BEFORE = "trained", "before training"


class Model(NamedTuple):
    """A checkpoint, and a function that makes the parameters it was trained from."""

    cfg: Config
    params: Params
    predict: Predict
    start: Callable[[], Params]


class Points(NamedTuple):
    """The layouts by name, the rows of the gallery on them, and why one is missing (empty: none is)."""

    rows: list[int]
    layouts: dict[str, Layout]
    missing: str


def of(model: Model, gallery: Gallery, about: About, count: int, kept: Path, progress: Progress) -> Points:
    """Return the points of `count` photos, evenly spread, and their first captions; keep them in the file `kept`.

    Raises ConfigError without the extra `report`, if they were not kept before.
    """
    rows = np.unique(np.linspace(0, len(gallery.records) - 1, count).round().astype(int)).tolist()
    rows = [row for row in rows if gallery.captions(row)]
    key = {**about._asdict(), "photos": len(rows), "neighbours": embedding.NEIGHBOURS, "seed": embedding.SEED}
    layouts, missing = embedding.kept(kept, key), ""
    if TRAINED not in layouts:
        embedded = embedding.embed(model.cfg, model.params, model.predict, gallery, rows, progress)
        layouts[TRAINED] = embedding.lay_out(*embedded)
    if BEFORE not in layouts:
        try:
            params = model.start()
            embedded = embedding.embed(model.cfg, params, model.predict, gallery, rows, progress)
            layouts[BEFORE] = embedding.lay_out(*embedded)
        except ConfigError as error:
            missing = f"The towers before training are not shown: {error}"
    embedding.keep(kept, key, layouts)
    return Points(rows, layouts, missing)


def write_parquet(path: Path, gallery: Gallery, split: str, points: Points) -> None:
    """Write the trained points as a table that embedding-atlas opens: x, y, text, image_id, split, kind.

    A photo's text is its first caption.
    """
    layout, n = points.layouts[TRAINED], len(points.rows)
    places = np.concatenate([layout.images, layout.texts])
    captions = [gallery.captions(row)[0] for row in points.rows]
    ids = [gallery.image_id(row) for row in points.rows]
    columns = {
        "x": places[:, 0],
        "y": places[:, 1],
        "text": captions + captions,
        "image_id": ids + ids,
        "split": [split] * (2 * n),
        "kind": ["photo"] * n + ["caption"] * n,
    }
    parquet.write_table(pa.table(columns), path)
