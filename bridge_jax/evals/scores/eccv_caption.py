"""Score the retrieval of COCO's 5,000 test photos as ECCV Caption, CxC and COCO do, through the package eccv_caption.

COCO takes five captions for true of a photo, and each of them for true of this photo alone. Many others are true too.
Crisscrossed Captions (CxC, arXiv 2004.15020) had people judge more pairs. ECCV Caption (arXiv 2204.03359) goes on with
1,261 photos and 1,332 captions as queries: a photo has up to 48 true captions, a caption up to 19 true photos.

The measures have the package's names. `r1`, `r5` and `r10` are recalls. `map_at_r` and `rprecision` look at the best R
candidates of a query that has R true ones. `coco_1k` takes each fifth of the photos for a gallery of its own. The
package is the extra `eccv`.
"""

import contextlib
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from bridge_jax.config import ConfigError
from bridge_jax.evals.scores import accuracy, recall

NAME = "eccv_caption"
SIDES = {"text_to_image": "t2i", "image_to_text": "i2t"}  # direction -> its name in the package
RECALLS = ("coco_1k", "coco_5k", "cxc")
MEASURES = (
    *(f"{benchmark}_r{k}" for benchmark in RECALLS for k in recall.RECALL_AT),
    *("eccv_map_at_r", "eccv_rprecision", "eccv_r1"),
)
DEEPEST = 50  # candidates of a query that count: as many as the package's own example takes
MISSING_LIMIT = 0.01  # share of the photos that may be missing
FOLDS, CAPTIONS = 5, 5  # of the 5,000 photos, and of each photo
Positives = Mapping[str, Mapping[int, Sequence[int]]]  # side -> query -> the ids that are true of it


class Truth(NamedTuple):
    """Hold which pairs of test photo and caption are true: photos by COCO's image ids, captions by annotation ids."""

    coco: Positives
    cxc: Positives
    eccv: Positives
    fold: Mapping[int, int]  # of each photo, in COCO 1K


@functools.cache
def truth() -> Truth:
    """Return what the package knows. Raises ConfigError where it is missing."""
    found = _package().Metrics()
    order = [found.coco_gts["t2i"][caption][0] for caption in found.coco_ids[::CAPTIONS].tolist()]
    fold = {photo: place * FOLDS // len(order) for place, photo in enumerate(order)}
    return Truth(found.coco_gts, found.cxc_gts, found.eccv_gts, fold)


def measures(
    by_text: Float[np.ndarray, "texts images"],
    by_image: Float[np.ndarray, "images texts"],
    text_photos: Int[np.ndarray, " texts"],
    photos: Int[np.ndarray, " images"],
    *,
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Return `<direction>/<measure>` in percent, each with its 95 % bootstrap interval over photos, `_low` and `_high`.

    `text_photos` has the photo of each text, by its id in COCO, and a photo's captions stand in the order of their ids,
    as in Karpathy's file; of more than five the package knows the first five. Queries of missing photos are left out.
    Equal scores are ranked in the order of their rows.

    Raises ConfigError where these are not the test photos with their captions, and FloatingPointError on NaN.
    """
    require_photos(photos)
    if np.isnan(by_text).any() or np.isnan(by_image).any():
        raise FloatingPointError(f"{NAME}: a score is NaN; a ranking would be meaningless")
    captions = _caption_ids(text_photos)
    known = captions >= 0
    captions, owners = captions[known], text_photos[known]
    sides = {
        "text_to_image": (by_text[known], captions, owners, photos, photos),
        "image_to_text": (by_image[:, known], photos, photos, captions, owners),
    }
    result = {}
    for direction, (scores, queries, clusters, candidates, of_candidates) in sides.items():
        deep = _lists(scores, queries, candidates, DEEPEST)
        in_fold = {}
        for rows, columns in _folds(clusters, of_candidates):
            in_fold |= _lists(scores[np.ix_(rows, columns)], queries[rows], candidates[columns], max(recall.RECALL_AT))
        photo_of = dict(zip(queries.tolist(), clusters.tolist(), strict=True))
        for name, values in _by_query(SIDES[direction], deep, in_fold).items():
            drawn = accuracy.mean(np.array([*values.values()]), np.array([photo_of[q] for q in values]), samples, seed)
            result |= {f"{direction}/{key.replace('accuracy', name)}": value for key, value in drawn.items()}
    return result


def require_photos(photos: Int[np.ndarray, " images"]) -> None:
    """Raise ConfigError unless `photos` are the test photos; a few may be missing, and a warning names them."""
    known, got = truth().fold, set(photos.tolist())
    strange, missing = got - set(known), sorted(set(known) - got)
    if strange or len(missing) > MISSING_LIMIT * len(known):
        raise ConfigError(
            f"config.evals.{NAME}: expected the {len(known):,} test photos of COCO by Karpathy's split; "
            f"{len(missing):,} of them are missing and {len(strange):,} others are there{_such(strange)}; "
            "prepare the data set coco and score its split test"
        )
    if missing:
        logging.warning("%s: %d test photos are missing, and not asked for%s", NAME, len(missing), _such(missing))


def _such(photos: Sequence[int] | set[int]) -> str:
    return f" (such as {', '.join(map(str, sorted(photos)[:5]))})" if photos else ""


def _caption_ids(text_photos: Int[np.ndarray, " texts"]) -> Int[np.ndarray, " texts"]:
    """Return the id of each caption, and -1 for a photo's sixth and later. Raises ConfigError where one is missing."""
    place, ids = dict.fromkeys(text_photos.tolist(), 0), []
    known = {photo: sorted(truth().coco["i2t"][photo]) for photo in place}
    for photo in text_photos.tolist():
        ids.append(known[photo][place[photo]] if place[photo] < CAPTIONS else -1)
        place[photo] += 1
    if fewer := [photo for photo, count in place.items() if count < CAPTIONS]:
        raise ConfigError(
            f"config.evals.{NAME}: {len(fewer)} photos have fewer than {CAPTIONS} captions{_such(fewer)}, so the place "
            "of a caption does not tell its id; prepare the data set coco from Karpathy's whole file"
        )
    return np.array(ids)


def _lists(
    scores: Float[np.ndarray, "queries candidates"],
    queries: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, " candidates"],
    k: int,
) -> dict[int, list[int]]:
    """Return query -> its k best candidates, best first."""
    best = recall.top(scores, min(k, len(candidates)))
    return dict(zip(queries.tolist(), candidates[best].tolist(), strict=True))


def _folds(*photos: Int[np.ndarray, " n"]) -> Iterator[list[Int[np.ndarray, " m"]]]:
    """Yield for each fold the rows of both sides, given the photos of these."""
    folds = [np.array([truth().fold[photo] for photo in side.tolist()]) for side in photos]
    for number in range(FOLDS):
        yield [np.flatnonzero(side == number) for side in folds]


def _by_query(
    side: str, deep: Mapping[int, list[int]], in_fold: Mapping[int, list[int]]
) -> dict[str, dict[int, float]]:
    """Return measure -> query -> its value, from 0 to 1, as the package computes it."""
    known, package = truth(), _package().metrics
    recalls = {"coco_1k": (in_fold, known.coco), "coco_5k": (deep, known.coco), "cxc": (deep, known.cxc)}
    found: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
    for name, (lists, positives) in recalls.items():
        for query, true in positives[side].items():
            for k in recall.RECALL_AT if query in lists else ():
                found[f"{name}_r{k}"][query] = package.compute_r_at_k({query: lists[query]}, {query: true}, k)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for each query
        for query, true in known.eccv[side].items():
            values = package.compute_eccv_metrics({query: deep[query]}, {query: true}) if query in deep else {}
            for name, value in values.items():
                found[name][query] = value
    return found


def _package() -> Any:
    try:
        import eccv_caption
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"config.evals.{NAME}: its judgements of pairs are in the package eccv_caption, which is not here; "
            "install it: pip install -e '.[eccv]'"
        ) from error
    return eccv_caption
