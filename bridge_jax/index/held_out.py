"""Search held-out photos for their own captions: the scores from which the refusal is made."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bridge_jax import rng
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline, text
from bridge_jax.index import store
from bridge_jax.index.exact import nearest
from bridge_jax.index.model import Model
from bridge_jax.types import Progress

PHOTOS, CAPTIONS, CANDIDATES = 1000, 200, 100  # at most: searched in; searched for, of one photo each; of a search


class Pairs(NamedTuple):
    """The match logits and unimodal scores of captions."""

    true: Float[np.ndarray, "n 2"]  # with their own photos
    wrong: list[Float[np.ndarray, "k 2"]]  # with wrong candidates, in the order of a search
    photos: int  # that were searched


def pairs(model: Model, split: str, progress: Progress) -> Pairs:
    """Search the photos of a split for captions of theirs. Photos that have the same caption too are no wrong ones.

    Raises ConfigError where the split is not prepared, or has fewer than two photos.
    """
    records = pipeline.open_split(model.cfg.data, split)
    count = min(len(records), PHOTOS)
    if count < 2:
        raise ConfigError(f"config.data.eval_split {split!r} has {count} photos, expected two or more")
    embeddings, states = _embedded(model, split, count, progress)
    draw = np.random.default_rng(rng.stream_seed(model.cfg.seed, f"refusal/{split}"))
    captions = [set(records[i]["captions"]) for i in range(count)]
    true, wrong = [], []
    for done, own in enumerate(draw.permutation(count)[:CAPTIONS], 1):
        usable = [caption for caption in records[own]["captions"] if not text.fault(caption)]
        caption = usable[draw.integers(len(usable))] if usable else ""
        others = np.array([caption not in there for there in captions])
        if usable and others.any():
            asked = model.text(caption)
            rows, _ = nearest(embeddings, asked.embedding, CANDIDATES, others)
            rows = np.append(rows, own)
            scores = np.stack([model.match(asked, states[rows]), model.scale * embeddings[rows] @ asked.embedding], 1)
            true.append(scores[-1])
            wrong.append(scores[:-1][np.argsort(-scores[:-1] @ (1, model.weight), kind="stable")])
        progress("captions", done, min(count, CAPTIONS))
    return Pairs(np.array(true), wrong, count)


def _embedded(model: Model, split: str, count: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and lower states of the first photos of a split."""
    embeddings, states = [], []
    for pixels, _, valid in pipeline.images(model.cfg, split, model.batch, order=range(count)):
        embedded, lower = model.photos(pixels)
        embeddings.append(embedded[valid])
        states.append(store.half(np.asarray(lower, np.float32)[valid]))
        progress("held-out photos", min(count, len(states) * model.batch), count)
    return np.concatenate(embeddings), np.concatenate(states)
