"""Join the fused scores of the best candidates with the unimodal scores of all, in plain NumPy.

score = fused + weight x unimodal,   fused = match logit,   unimodal = logit scale x cosine
"""

from typing import Any, NamedTuple

import numpy as np

from bridge_jax.evals.scores import recall

PAIRED_SAMPLES = 1000
WEIGHTS = 2.0 ** np.arange(-4, 8.5, 0.5)  # from the fused order almost to the unimodal one


class Candidates(NamedTuple):
    """The candidates of both directions, and the match logits of their pairs."""

    by_text: np.ndarray  # int [texts,k]: the pictures of each text
    by_image: np.ndarray  # int [images,k]: the texts of each picture
    fused: np.ndarray  # float32 [texts,images]; zero where no query has the pair


def best(cosines: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best pictures of each text and the k best texts of each picture, by the unimodal order."""
    n_texts, n_images = cosines.shape
    return recall.top(cosines, min(k, n_images)), recall.top(cosines.T, min(k, n_images, n_texts))


def first(candidates: Candidates, k: int) -> Candidates:
    """Return the first k candidates of every query."""
    return candidates._replace(by_text=candidates.by_text[:, :k], by_image=candidates.by_image[:, :k])


def pairs(by_text: np.ndarray, by_image: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts and the pictures of all pairs to fuse: each direction's candidates, and what is `positive`."""
    wanted = positive.copy()
    wanted[np.arange(len(by_text))[:, None], by_text] = True
    wanted[by_image, np.arange(len(by_image))[:, None]] = True
    rows, columns = np.nonzero(wanted)
    return rows, columns


def reorder(candidates: Candidates, cosines: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of both directions, [texts,images] and [images,texts]. `weight` is that of the cosines."""
    score = candidates.fused + weight * cosines
    return recall.reorder(cosines, score, candidates.by_text), recall.reorder(cosines.T, score.T, candidates.by_image)


def fit(
    candidates: Candidates, cosines: np.ndarray, scale: float, text_ids: np.ndarray, image_ids: np.ndarray
) -> float:
    """Return the one of WEIGHTS with the best mean reciprocal rank over both directions, the largest of equals."""

    def quality(weight: float) -> float:
        by_text, by_image = reorder(candidates, cosines, weight * scale)
        ranks = recall.ranks(by_text, text_ids, image_ids), recall.ranks(by_image, image_ids, text_ids)
        return float(sum(np.mean(1 / each) for each in ranks))

    return float(max(WEIGHTS[::-1], key=quality))


def gains(
    cosines: np.ndarray,
    reranked: tuple[np.ndarray, np.ndarray],
    text_ids: np.ndarray,
    image_ids: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Return the gain of reranking in R@1 in both directions, with the paired bootstrap's interval and p."""
    sides = {
        "text_to_image": (reranked[0], cosines, text_ids, image_ids),
        "image_to_text": (reranked[1], cosines.T, image_ids, text_ids),
    }
    metrics = {}
    for direction, (scores, unimodal, queries, candidates) in sides.items():
        after, before = (recall.ranks(s, queries, candidates, direction) for s in (scores, unimodal))
        gain = recall.paired_bootstrap(after, before, queries, PAIRED_SAMPLES, seed)["r@1"]
        for part, value in gain._asdict().items():
            metrics[f"rerank_gain/{direction}/r@1{'' if part == 'value' else '_' + part}"] = value
    return metrics


def two_way(
    candidates: Candidates, cosines: np.ndarray, weight: float, text_ids: np.ndarray, image_ids: np.ndarray
) -> dict[str, float]:
    """Return how often each score puts a text's true picture above its wrong candidates, in percent.

    These negatives are the unimodal order's own errors, so the choice works against it. A coin would get 50.
    """
    true = np.argmax(text_ids[:, None] == image_ids[None], axis=1)
    rows, columns = np.nonzero(image_ids[candidates.by_text] != text_ids[:, None])
    negatives = candidates.by_text[rows, columns]
    joined = candidates.fused + weight * cosines
    names: dict[str, Any] = {"unimodal": cosines, "fused": candidates.fused, "rerank": joined}
    return {
        f"two_way/{name}": 100.0 * recall.two_way(matrix[rows, true[rows]], matrix[rows, negatives])
        for name, matrix in names.items()
    }
