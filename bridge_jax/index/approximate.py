"""An approximate index: a graph of near neighbours (HNSW, arXiv 1603.09320) that finds most of the nearest photos.

It is built only where it finds enough of what the exact search finds, for texts: such a graph suits queries that look
like its rows, and texts lie apart from photos (docs/photo_search.md). Its embeddings are not quantised, and what it
finds is scored exactly. The package usearch is the extra `approximate`.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bridge_jax import rng
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline, text
from bridge_jax.index.exact import nearest
from bridge_jax.index.model import Model
from bridge_jax.types import Progress
from bridge_jax.workdir import atomic

FILES = "neighbours-*.usearch"
NEAREST, LEAST_RECALL, QUERIES = 10, 0.95, 200
EXPANSIONS = (64, 128, 256, 512)  # candidates that a search keeps; the first with enough recall is taken


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph, as the manifest records it."""

    file: str
    rows: str  # hash of the rows in it
    expansion: int
    recall: float  # share of the exact 10 nearest that it finds
    queries: str  # of which texts


class Neighbours:
    """A graph, opened."""

    def __init__(self, folder: Path, record: Mapping[str, Any]):
        """Raise ConfigError where usearch is missing, or the file is gone or damaged."""
        graph = Graph(**record)
        path = folder / graph.file
        try:
            opened = _usearch().Index.restore(str(path), view=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--approximate: {path} cannot be read: {error}; remove it and build again") from error
        if opened is None:
            raise ConfigError(f"--approximate: {path} is gone or damaged: remove it and build again")
        opened.expansion_search = graph.expansion
        self._graph = opened

    def rows(self, query: Float[np.ndarray, " E"], k: int) -> Int[np.ndarray, " n"]:
        """Return about the k nearest rows, in the order of rows."""
        return _found(self._graph, query, k)


def build(
    folder: Path, model: Model, embeddings: Float[np.ndarray, "rows E"], rows: Int[np.ndarray, " n"], progress: Progress
) -> Graph:
    """Write the graph of some rows. It has the same bytes for the same rows: one thread adds them in order.

    Raises ConfigError where usearch is missing, or where the graph finds too few of the nearest photos.
    """
    graph = _usearch().Index(ndim=embeddings.shape[1], metric="ip", dtype="f32")
    for first in range(0, len(rows), 1000):
        part = rows[first : first + 1000]
        graph.add(part.astype(np.uint64), np.ascontiguousarray(embeddings[part]), threads=1)
        progress("neighbours", first + len(part), len(rows))
    asked, said = _queries(model)
    recall, expansion = 0.0, 0
    for expansion in EXPANSIONS:
        graph.expansion_search = expansion
        recall = measure(graph, embeddings, rows, asked)
        if recall >= LEAST_RECALL:
            break
    else:
        raise ConfigError(
            f"--approximate: of the {NEAREST} nearest photos of {said} it finds {100 * recall:.1f} %, expected "
            f"{100 * LEAST_RECALL:.0f} % or more; the exact index is whole, and is the one to use: build it with "
            "--noapproximate"
        )
    encoded = bytes(graph.save())
    name = FILES.replace("*", hashlib.sha256(encoded).hexdigest()[:12])
    atomic.write_bytes(folder / name, encoded)
    return Graph(name, digest(rows), expansion, recall, said)


def measure(
    graph: Any, embeddings: Float[np.ndarray, "rows E"], rows: Int[np.ndarray, " n"], asked: Float[np.ndarray, "q E"]
) -> float:
    """Return the share of the exact nearest that a graph finds, over queries. Equal cosines are equally good."""
    among = np.isin(np.arange(len(embeddings)), rows)
    shares = []
    for query in asked:
        _, cosines = nearest(embeddings, query, NEAREST, among)
        found = embeddings[_found(graph, query, NEAREST)] @ query
        shares.append(np.count_nonzero(found >= cosines[-1] - 1e-6) / len(cosines))
    return float(np.mean(shares))


def check() -> None:
    """Raise ConfigError where usearch is missing."""
    _usearch()


def digest(rows: Int[np.ndarray, " n"]) -> str:
    """Return a hash of the rows of a graph."""
    return hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]


def clean(folder: Path, kept: Mapping[str, Any] | None) -> None:
    """Remove every graph but the one that the manifest records."""
    for path in folder.glob(FILES):
        if kept is None or path.name != kept["file"]:
            path.unlink()


def _queries(model: Model) -> tuple[Float[np.ndarray, "q E"], str]:
    """Return embeddings of texts and the texts' name: held-out captions; where they are not here, of the vocabulary."""
    draw = np.random.default_rng(rng.stream_seed(model.cfg.seed, "approximate"))
    try:
        records = pipeline.open_split(model.cfg.data, model.cfg.data.eval_split)
        picked = [records[row]["captions"][:1] for row in draw.permutation(len(records))[:QUERIES].tolist()]
        texts = [caption for captions in picked for caption in captions if not text.fault(caption)]
        said = f"{len(texts)} captions of {model.cfg.data.dataset}/{model.cfg.data.eval_split}"
    except ConfigError:
        every = [model.tokenizer.decode([token]) for token in range(model.tokenizer.vocab_size)]
        words = [word for word in every if word.isalpha()]
        texts = [f"a photo of a {words[i]}" for i in draw.permutation(len(words))[:QUERIES]]
        said = f"{len(texts)} texts of a word of the vocabulary (the held-out captions are not here)"
    return np.stack([model.text(caption).embedding for caption in texts]), said


def _found(graph: Any, query: Float[np.ndarray, " E"], k: int) -> Int[np.ndarray, " n"]:
    return np.sort(graph.search(query, k, threads=1).keys.astype(int))


def _usearch() -> Any:
    try:
        from usearch import index
    except ModuleNotFoundError as error:
        raise ConfigError("--approximate needs usearch: pip install 'bridge_jax[approximate]'") from error
    return index
