"""Embed photos and captions of a split by a run's towers, measure the gap between them, and lay them out on a plane.

The plane is UMAP's (McInnes et al. 2018, arXiv 1802.03426), from the extra `report`. Coordinates and numbers are kept
in a file beside the page, so that a second report of the same checkpoint and photos reads them.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridge_jax.analysis import gap
from bridge_jax.config import Config, ConfigError
from bridge_jax.data import image, text
from bridge_jax.data.padding import padded_batches
from bridge_jax.report.gallery import Gallery
from bridge_jax.step.predict import Predict
from bridge_jax.types import Params, Progress
from bridge_jax.workdir import atomic

NEIGHBOURS, SEED = 15, 0  # of UMAP; of UMAP, of the shuffled pairs and of the folds
INSTALL = "pip install 'bridge_jax[report]'"


class Gap(NamedTuple):
    """The numbers of `analysis.gap` for pairs of embeddings."""

    centroid_distance: float
    separability: float
    alignment: float
    uniformity_images: float
    uniformity_texts: float


class Layout(NamedTuple):
    """One model's pairs on the plane: [n,2] of the photos and of their captions, and the gap, true and shuffled."""

    images: np.ndarray
    texts: np.ndarray
    gap: Gap
    shuffled: Gap


def embed(
    cfg: Config, params: Params, predict: Predict, gallery: Gallery, rows: Sequence[int], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings [n,E] of the photos at `rows` and of the first caption of each. Raises BrokenError."""
    tokenizer, size = text.load(cfg.data, cfg.text), cfg.evals["retrieval"].batch_size
    images, texts = [], []
    for picked, valid in padded_batches(len(rows), size):
        records = [gallery.records[rows[place]] for place in picked]
        views = [image.eval_view(record["image"], cfg.vision.image_px, cfg.data.squash) for record in records]
        ids, mask = tokenizer.encode([record["captions"][0] for record in records])
        embedded = predict.unimodal_image(params, predict.lower_image(params, np.stack(views)))
        images.append(np.asarray(embedded)[valid])
        texts.append(np.asarray(predict.unimodal_text(params, predict.lower_text(params, ids, mask), mask))[valid])
        progress("embedded", int(picked[-1]) + 1, 0)
    return np.concatenate(images), np.concatenate(texts)


def measure(images: np.ndarray, texts: np.ndarray) -> Gap:
    """Return the numbers of the gap; row i of both is a pair."""
    return Gap(
        gap.centroid_distance(images, texts),
        gap.separability(images, texts, seed=SEED),
        gap.alignment(images, texts),
        gap.uniformity(images),
        gap.uniformity(texts),
    )


def shuffled(n: int) -> np.ndarray:
    """Return the caption that each of n photos gets in place of its own."""
    order = np.random.default_rng(SEED).permutation(n)
    return np.roll(order, 1)[np.argsort(order)]  # one cycle: no photo keeps its own


def lay_out(images: np.ndarray, texts: np.ndarray) -> Layout:
    """Return both sides on one plane, and their gap. Raises ConfigError without the extra `report`."""
    try:
        with warnings.catch_warnings(category=ImportWarning, action="ignore"):  # it looks for TensorFlow
            import umap  # takes ten seconds, and is an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"the map of embeddings needs umap-learn: {INSTALL}") from error
    both = np.concatenate([images, texts])
    mapper: Any = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(both) - 1), metric="cosine", random_state=SEED, n_jobs=1, transform_seed=SEED
    )
    places = np.asarray(mapper.fit_transform(both), np.float32)
    n, other = len(images), texts[shuffled(len(texts))]
    return Layout(places[:n], places[n:], measure(images, texts), measure(images, other))


def keep(path: Path, key: Mapping[str, Any], layouts: Mapping[str, Layout]) -> None:
    """Write layouts by name, with a key that says of what they are."""
    arrays = {"key": np.array(json.dumps(dict(key), sort_keys=True))}
    for name, layout in layouts.items():
        arrays |= {f"{name}/{field}": np.asarray(value) for field, value in layout._asdict().items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    atomic.write_bytes(path, content.getvalue())


def kept(path: Path, key: Mapping[str, Any]) -> dict[str, Layout]:
    """Return the layouts that were kept under this key; none where the file is of other ones, or is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if str(stored["key"]) != json.dumps(dict(key), sort_keys=True):
                return {}
            names = list(dict.fromkeys(name.rpartition("/")[0] for name in stored.files if "/" in name))
            return {
                name: Layout(
                    stored[f"{name}/images"],
                    stored[f"{name}/texts"],
                    Gap(*map(float, stored[f"{name}/gap"])),
                    Gap(*map(float, stored[f"{name}/shuffled"])),
                )
                for name in names
            }
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return {}
