"""Search an index: by the unimodal embeddings, exactly, and then by the bridge among the best.

score = match logit + rerank_weight x unimodal,   unimodal = logit scale x cosine

The weight is the one that was fitted to the checkpoint. A query of several terms, `horse + stripes - grass`, is the
sum of their embeddings, scaled to length one. Like a query by a photo it has no text for the bridge to read, so its
order is the unimodal one.
"""

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bridge_jax.config import ConfigError
from bridge_jax.data import image
from bridge_jax.data.broken import BrokenError
from bridge_jax.index import store
from bridge_jax.index.approximate import Neighbours
from bridge_jax.index.exact import nearest
from bridge_jax.index.model import Model, Text
from bridge_jax.index.refusal import Refusal
from bridge_jax.index.store import Index, Manifest, Photo

_TERMS = re.compile(r"(?:^|\s)([+-])(?=\s)")


@dataclasses.dataclass(frozen=True)
class Filter:
    """The photos that a query may find: of a folder and those in it, and of a time, by days as YYYY-MM-DD."""

    folder: str = ""
    since: str = ""
    until: str = ""

    def __post_init__(self):
        for name in ("since", "until"):
            day = getattr(self, name)
            if day and not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                raise ConfigError(f"{name} is {day!r}: expected a day such as 2026-01-31")

    def keeps(self, photo: Photo) -> bool:
        """Return whether a query may find the photo."""
        inside = photo.path.startswith(f"{self.folder.strip('/')}/") if self.folder.strip("/") else True
        return inside and (not self.since or photo.date >= self.since) and (not self.until or photo.date <= self.until)


class Hit(NamedTuple):
    """A photo that was found. `logit` and `likely` are None where the bridge did not look at it."""

    photo: Photo
    score: float
    unimodal: float
    logit: float | None = None
    likely: float | None = None  # probability that the text is true of it
    gone: bool = False  # its file has vanished since the index was built


@dataclasses.dataclass(frozen=True)
class Answer:
    """The best photos, the first the best."""

    hits: list[Hit]
    matches: bool | None  # whether a photo matches; None: nothing can tell, without a text or without the bridge
    ms: Mapping[str, float]  # milliseconds of each part, and in all


@dataclasses.dataclass(frozen=True)
class Search:
    """A checkpoint and an index of it."""

    model: Model
    index: Index
    refusal: Refusal | None = None
    neighbours: Neighbours | None = None  # searched in place of all embeddings, where no filter is given

    def text(self, query: str, *, k: int, rerank: bool = True, where: Filter | None = None) -> Answer:
        """Find the best photos for a text, and look at `k` of them with the bridge. Raises ConfigError."""
        started = time.perf_counter()
        terms = parse(query)
        texts = [self.model.text(term) for _, term in terms]
        total = np.sum([sign * text.embedding for (sign, _), text in zip(terms, texts, strict=True)], axis=0)
        only = texts[0] if len(terms) == 1 and rerank and self.model.bridged else None
        return self._answer(unit(total), only, k, where, started)

    def pixels(self, encoded: bytes, *, k: int, where: Filter | None = None) -> Answer:
        """Find the photos that look most like an encoded one. Raises BrokenError."""
        started = time.perf_counter()
        return self._answer(self.embed(encoded), None, k, where, started)

    def like(self, embedding: Float[np.ndarray, " E"], *, k: int, where: Filter | None = None) -> Answer:
        """Find the photos with the nearest embeddings."""
        return self._answer(embedding, None, k, where, time.perf_counter())

    def embed(self, encoded: bytes) -> Float[np.ndarray, " E"]:
        """Return the embedding of an encoded photo. Raises BrokenError."""
        return self.model.photo(self._view(encoded))

    def lower(self, photos: Sequence[Photo]) -> tuple[Float[np.ndarray, "n P D"], Bool[np.ndarray, " n"]]:
        """Return the lower states of photos: stored ones, or computed from their files; False where one is gone."""
        if self.index.states is not None:
            rows = np.array([photo.row for photo in photos], int)
            return self.index.states[rows], np.ones(len(photos), bool)
        px, size = self.model.cfg.vision.image_px, self.model.batch
        views, there = np.zeros((len(photos), px, px, 3), np.uint8), np.zeros(len(photos), bool)
        for i, photo in enumerate(photos):
            try:
                views[i] = self._view(self.index.file(photo).read_bytes())
                there[i] = True
            except (OSError, BrokenError):
                continue
        batches = [views[np.minimum(np.arange(i, i + size), len(views) - 1)] for i in range(0, len(views), size)]
        lower = np.concatenate([np.asarray(self.model.photos(batch)[1]) for batch in batches])
        return lower[: len(photos)], there

    def _view(self, encoded: bytes) -> np.ndarray:
        return image.eval_view(encoded, self.model.cfg.vision.image_px, self.model.cfg.data.squash)

    def _answer(
        self, embedding: np.ndarray, query: Text | None, k: int, where: Filter | None, started: float
    ) -> Answer:
        embedded = time.perf_counter()
        rows, cosines = self._nearest(embedding, k, where)
        photos = [self.index.photos[row] for row in rows.tolist()]
        searched = time.perf_counter()
        hits = [Hit(photo, s, s) for photo, s in zip(photos, (self.model.scale * cosines).tolist(), strict=True)]
        if query is not None and hits:
            hits = self._rerank(query, hits)
        hits = [hit._replace(gone=not self.index.file(hit.photo).is_file()) for hit in hits]
        ended = time.perf_counter()
        parts = {"embed": embedded - started, "search": searched - embedded, "rerank": ended - searched}
        matches = None
        if query is not None and self.refusal is not None:
            matches = any(hit.likely is not None and hit.likely >= self.refusal.threshold for hit in hits)
        ms = {name: 1000 * secs for name, secs in parts.items()} | {"all": 1000 * (ended - started)}
        return Answer(hits, matches, ms)

    def _nearest(
        self, embedding: np.ndarray, k: int, where: Filter | None
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        allowed = self._allowed(where)
        if self.neighbours is None or allowed is not self.index.live:
            return nearest(self.index.embeddings, embedding, k, allowed)
        rows = self.neighbours.rows(embedding, k)
        best, cosines = nearest(self.index.embeddings[rows], embedding, k, np.ones(len(rows), bool))
        return rows[best], cosines

    def _allowed(self, where: Filter | None) -> Bool[np.ndarray, " rows"]:
        if where is None or where == Filter():
            return self.index.live
        allowed = np.zeros_like(self.index.live)
        allowed[[photo.row for photo in self.index.photos.values() if where.keeps(photo)]] = True
        return allowed

    def _rerank(self, query: Text, hits: list[Hit]) -> list[Hit]:
        """Return the hits in the order of their scores; those that the bridge could not see come last."""
        lower, there = self.lower([hit.photo for hit in hits])
        logits = self.model.match(query, lower[there])
        seen = [hit for hit, known in zip(hits, there, strict=True) if known]
        scores = np.stack([logits, [hit.unimodal for hit in seen]], axis=1)
        likely = self.refusal.probability(scores).tolist() if self.refusal else [None] * len(seen)
        scored = [
            hit._replace(score=float(logit) + self.model.weight * hit.unimodal, logit=float(logit), likely=p)
            for hit, logit, p in zip(seen, logits, likely, strict=True)
        ]
        rest = [hit for hit, known in zip(hits, there, strict=True) if not known]
        return sorted(scored, key=lambda hit: -hit.score) + rest


def open_search(model: Model, folder: str | Path, *, approximate: bool = False) -> Search:
    """Open an index with the checkpoint that made it. Raises ConfigError where another did, or there is none."""
    index = store.open_index(folder)
    check_checkpoint(index.manifest, model, index.folder)
    graph = index.manifest.approximate
    if approximate and graph is None:
        raise ConfigError(f"--approximate: {folder} has no approximate index: build it with --approximate")
    neighbours = Neighbours(index.folder, graph) if approximate and graph else None
    with store.reading(index.folder / store.MANIFEST):
        refusal = Refusal(**index.manifest.refusal) if index.manifest.refusal else None
        return Search(model, index, refusal if refusal and refusal.used else None, neighbours)


def newest(search: Search) -> Search:
    """Return a search of the index as it is on the disk now: the same one until a build has ended.

    Raises ConfigError or OSError where it cannot be read, or another checkpoint made it.
    """
    folder, model = search.index.folder, search.model
    manifest = store.read_manifest(folder)
    if manifest is not None:
        check_checkpoint(manifest, model, folder)
        if manifest.searched == search.index.manifest.searched:
            return search
    return open_search(model, folder, approximate=search.neighbours is not None)


def check_checkpoint(manifest: Manifest, model: Model, folder: Path) -> None:
    """Raise ConfigError where another checkpoint made the index."""
    if manifest.checkpoint != model.digest:
        raise ConfigError(
            f"--index: {folder} is of checkpoint {manifest.step} of {manifest.workdir}, not of checkpoint {model.step} "
            f"of {model.workdir}: its embeddings say nothing to another model; give another --index, or remove it"
        )


def parse(query: str) -> list[tuple[int, str]]:
    """Return the terms of a query, each with its sign. Raises ConfigError where one is empty.

    >>> parse("horse + stripes - grass")
    [(1, 'horse'), (1, 'stripes'), (-1, 'grass')]
    """
    first, *rest = _TERMS.split(query)
    pairs = [("+", first), *zip(rest[::2], rest[1::2], strict=True)]
    terms = [(1 if sign == "+" else -1, term.strip()) for sign, term in pairs]
    terms = terms[1:] if len(terms) > 1 and not terms[0][1] else terms
    if len(terms) > 1 and not all(term for _, term in terms):
        raise ConfigError(f"the query {query!r} has an empty term: expected one such as 'horse + stripes - grass'")
    return terms


def unit(vector: Float[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
    """Scale a vector to length one. Raises ConfigError where its terms cancel out."""
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        raise ConfigError("the terms of the query cancel out: nothing is left to search for")
    return (vector / length).astype(np.float32)


def open_photo(path: str | Path) -> bytes:
    """Return the bytes of a photo. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--photo: {path}: {error.strerror}") from error


def record(answer: Answer) -> dict[str, Any]:
    """Return an answer for JSON."""
    hits = [
        {
            "id": hit.photo.id,
            "path": hit.photo.path.encode(errors="replace").decode(),
            "date": hit.photo.date,
            **{name: getattr(hit, name) for name in ("score", "unimodal", "logit", "likely", "gone")},
        }
        for hit in answer.hits
    ]
    return {"hits": hits, "matches": answer.matches, "ms": dict(answer.ms)}
