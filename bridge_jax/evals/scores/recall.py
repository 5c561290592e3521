"""Score retrieval in plain NumPy: ranks by counting, recall, and its confidence intervals.

A score matrix [queries, candidates] holds the similarity of every pair, higher is better. A candidate is a positive of
a query when their ids are equal, so an image has all its captions as positives. Ranks are pessimistic: a negative that
ties with the positive is ahead of it. So a model that gives one score to everything finds nothing, and NaN is an error
instead of a perfect rank.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bridge_jax.config import ConfigError

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
_CHUNK_ELEMENTS = 1 << 22  # scores in memory together: masks and copies stay below 100 MB for any gallery


class Difference(NamedTuple):
    """A paired comparison: `value` = a - b in percentage points, its 95 % interval, and the one-sided p of `a <= b`."""

    value: float
    low: float
    high: float
    p: float


def ranks(
    scores: np.ndarray, query_ids: np.ndarray, candidate_ids: np.ndarray, direction: str = "scores"
) -> np.ndarray:
    """Return the rank (int64 [queries], best is 1) of each query's best-ranked positive.

    `rank = 1 + |{negatives c: score(q, c) >= max over positives of score(q, .)}|`. Other positives never
    count. Rows are read in chunks, so `scores` may be a memory map or a transposed view and is never copied whole.

    >>> ranks(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([7, 8]), np.array([8, 7]))
    array([1, 2])

    Raises FloatingPointError on NaN and ValueError on shapes that disagree or a query without a positive, both naming
    `direction`. Minus infinity is a legal score (for a candidate that was not considered).
    """
    query_ids, candidate_ids = np.asarray(query_ids), np.asarray(candidate_ids)
    if scores.shape != (len(query_ids), len(candidate_ids)):
        raise ValueError(
            f"{direction}: expected scores of shape [queries, candidates] = "
            f"[{len(query_ids)}, {len(candidate_ids)}] as the ids say, got {list(scores.shape)}"
        )
    best_ranks = np.empty(len(query_ids), np.int64)
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(candidate_ids)))
    for start in range(0, len(query_ids), rows):
        chunk = np.asarray(scores[start : start + rows])
        if chunk.dtype not in (np.float32, np.float64):
            chunk = chunk.astype(np.float64)  # exact for every narrower type; bfloat16 and integers have no -inf
        invalid = np.argwhere(np.isnan(chunk))
        if len(invalid):
            query, candidate = invalid[0]
            raise FloatingPointError(
                f"{direction}: the score of query {start + query} and candidate {candidate} is NaN "
                f"({len(invalid)} of them in these {len(chunk)} rows); a rank would be meaningless"
            )
        positive = query_ids[start : start + rows, None] == candidate_ids[None]
        alone = np.flatnonzero(~positive.any(axis=1))
        if len(alone):
            row = start + alone[0]
            raise ValueError(f"{direction}: query {row} (id {query_ids[row]}) has no positive among the candidates")
        best = np.max(chunk, axis=1, keepdims=True, where=positive, initial=-np.inf)
        best_ranks[start : start + rows] = 1 + np.count_nonzero((chunk >= best) & ~positive, axis=1)
    return best_ranks


def summary(ranks: np.ndarray) -> dict[str, float]:
    """Return `r@1`, `r@5`, `r@10` in percent, and `median_rank` (best is 1). Raises ValueError without a rank."""
    if not len(ranks):
        raise ValueError("summary: expected at least one rank, got none")
    recall = {f"r@{k}": 100.0 * float(np.mean(ranks <= k)) for k in RECALL_AT}
    return recall | {"median_rank": float(np.median(ranks))}


def retrieval(
    scores: np.ndarray,
    text_ids: np.ndarray,
    image_ids: np.ndarray,
    *,
    image_scores: np.ndarray | None = None,
    bootstrap_samples: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Score both directions of `scores` [texts, images].

    `text_to_image` takes a text as the query, `image_to_text` an image. `image_scores` [images, texts] holds the scores
    of the second direction where they differ (reranking looks at other pairs); by default they are `scores` transposed.

    Returns `<direction>/r@1`, `r@5`, `r@10` in percent, `<direction>/median_rank` and `rsum`, the sum of the six
    recalls. With `bootstrap_samples`, each also has `<direction>/<name>_low` and `_high`, the ends of its 95 % interval
    over draws of images, each with all its captions. Raises the errors of `ranks`.
    """
    both = both_ranks(scores, scores.T if image_scores is None else image_scores, text_ids, image_ids)
    result = {}
    for direction, (query_ranks, query_ids) in both.items():
        result |= {f"{direction}/{name}": value for name, value in summary(query_ranks).items()}
        if bootstrap_samples:
            for name, (low, high) in bootstrap(query_ranks, query_ids, bootstrap_samples, seed).items():
                result |= {f"{direction}/{name}_low": low, f"{direction}/{name}_high": high}
    result["rsum"] = sum(result[f"{direction}/r@{k}"] for direction in DIRECTIONS for k in RECALL_AT)
    return result


def both_ranks(
    by_text: np.ndarray, by_image: np.ndarray, text_ids: np.ndarray, image_ids: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return direction -> the rank of every query (int64 [queries]) and the photo that it belongs to (its id).

    `by_text` [texts, images] scores the queries of `text_to_image`, `by_image` [images, texts] those of
    `image_to_text`. Raises the errors of `ranks`.
    """
    text_ids, image_ids = np.asarray(text_ids), np.asarray(image_ids)
    sides = (by_text, text_ids, image_ids), (by_image, image_ids, text_ids)
    return {
        direction: (ranks(scores, query_ids, candidate_ids, direction), query_ids)
        for direction, (scores, query_ids, candidate_ids) in zip(DIRECTIONS, sides, strict=True)
    }


def by_kind(scores: np.ndarray, kinds: np.ndarray, text_ids: np.ndarray, image_ids: np.ndarray) -> dict[str, float]:
    """Return `text_to_image/<kind>/<recall>` for each kind of caption (`kinds`: str [texts]), if there are several."""
    result, known = {}, np.unique(kinds)
    for kind in known if len(known) > 1 else ():
        rows = kinds == kind
        found = ranks(scores[rows], text_ids[rows], image_ids, f"text_to_image/{kind}")
        result |= {f"text_to_image/{kind}/{name}": value for name, value in summary(found).items()}
    return result


def folds(
    scores: np.ndarray,
    text_ids: np.ndarray,
    image_ids: np.ndarray,
    count: int,
    *,
    image_scores: np.ndarray | None = None,
) -> dict[str, float]:
    """Return `retrieval` averaged over `count` equal consecutive folds of the images, each with its own captions.

    A fold is a gallery of its own: its queries are scored only against its candidates. COCO's "1K" numbers are the mean
    over five folds of the 5,000 test images in the order of the split file, so the order of `image_ids` [images]
    matters.

    Raises ConfigError where the folds cannot be equal, ValueError where an image occurs twice, and the errors of
    `ranks`.
    """
    text_ids, image_ids = np.asarray(text_ids), np.asarray(image_ids)
    if count < 1 or len(image_ids) % count:
        raise ConfigError(
            f"config.evals.retrieval.folds: {count} folds do not divide {len(image_ids)} images; "
            "choose a divisor, or 1 for no folds"
        )
    if len(np.unique(image_ids)) != len(image_ids):
        raise ValueError("folds: an image occurs twice, so it could be in two folds; keep one row of each")
    results = []
    for images in np.split(np.arange(len(image_ids)), count):
        texts = np.flatnonzero(np.isin(text_ids, image_ids[images]))
        fold = scores[texts[:, None], images]
        other = None if image_scores is None else image_scores[images[:, None], texts]
        results.append(retrieval(fold, text_ids[texts], image_ids[images], image_scores=other))
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def bootstrap(ranks: np.ndarray, clusters: np.ndarray, samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of each number of `summary`.

    Whole clusters [queries] are drawn with replacement. The captions of one image are not independent observations, so
    for texts as queries the image is the cluster. Same seed, same interval.
    """
    drawn = [summary(ranks[rows]) for rows in _resample(clusters, len(ranks), samples, seed)]
    return {name: _interval([sample[name] for sample in drawn]) for name in drawn[0]}


def paired_bootstrap(
    ranks_a: np.ndarray, ranks_b: np.ndarray, clusters: np.ndarray, samples: int, seed: int
) -> dict[str, Difference]:
    """Return the advantage of `a` over `b` on the same queries, for each recall, in percentage points.

    Both are scored on the same draws of whole clusters, so the difficulty of a query cancels. `p` is the share of draws
    in which `a` is not better; it counts the observed sample in, so it is never 0.
    """
    if len(ranks_a) != len(ranks_b):
        raise ValueError(
            f"paired_bootstrap: expected the same queries on both sides, got {len(ranks_a)} and {len(ranks_b)} ranks"
        )
    result = {}
    gains = {k: 100.0 * ((ranks_a <= k).astype(np.float64) - (ranks_b <= k)) for k in RECALL_AT}
    drawn = [[gains[k][rows].mean() for k in RECALL_AT] for rows in _resample(clusters, len(ranks_a), samples, seed)]
    for k, values in zip(RECALL_AT, np.transpose(drawn), strict=True):
        # Rounding in the mean must not turn a tie into a win.
        worse = int(np.count_nonzero(values <= 1e-9))
        result[f"r@{k}"] = Difference(float(gains[k].mean()), *_interval(values), (1 + worse) / (1 + samples))
    return result


def two_way(scores_true: np.ndarray, scores_negative: np.ndarray) -> float:
    """Return the share (0 to 1) of pairs [pairs] that score above their negative [pairs]; a tie is wrong.

    Raises FloatingPointError on NaN and ValueError on shapes that differ or nothing to compare.
    """
    scores_true, scores_negative = np.asarray(scores_true), np.asarray(scores_negative)
    if scores_true.shape != scores_negative.shape or not scores_true.size:
        raise ValueError(
            f"two_way: expected one negative for each pair, got shapes {list(scores_true.shape)} and "
            f"{list(scores_negative.shape)}"
        )
    if np.isnan(scores_true).any() or np.isnan(scores_negative).any():
        raise FloatingPointError("two_way: a score is NaN; an accuracy would be meaningless")
    return float(np.mean(scores_true > scores_negative))


def _resample(clusters: np.ndarray, queries: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `samples` arrays of query rows, each of as many whole clusters as there are, drawn with replacement."""
    clusters = np.asarray(clusters)
    if clusters.shape != (queries,) or not queries or samples < 1:
        raise ValueError(
            f"bootstrap: expected one cluster for each of at least one rank and at least one sample, got "
            f"{list(clusters.shape)} clusters, {queries} ranks, {samples} samples"
        )
    _, inverse, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))])


def _interval(values) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k best scores, best first; equal scores in the order of their columns."""
    found = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def reorder(unimodal: np.ndarray, score: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return scores by which each row's `top` columns are ordered by `score` and come before all others."""
    rows = np.arange(len(unimodal))[:, None]
    best = score[rows, top]
    # cosines lie in -1..1, so all other columns end at least one below the least of the best
    result = best.min(axis=1, keepdims=True) - 3.0 + unimodal
    result[rows, top] = best
    return result
