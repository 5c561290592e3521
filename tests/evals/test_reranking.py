"""How the scores of towers and bridge are joined, compared with sorting by hand."""

import numpy as np
import pytest

from bridge_jax.evals.scores import reranking

TEXTS, IMAGES, K, SCALE = 24, 8, 3, 20.0
IMAGE_IDS = np.arange(IMAGES)
TEXT_IDS = np.repeat(IMAGE_IDS, TEXTS // IMAGES)
POSITIVE = TEXT_IDS[:, None] == IMAGE_IDS[None]


def scores(fused_noise: float, seed: int = 0) -> tuple[reranking.Candidates, np.ndarray]:
    """Return cosines that know a little, and fused scores that know everything but for noise."""
    draw = np.random.default_rng(seed)
    cosines = np.clip(0.3 * POSITIVE + draw.normal(scale=0.3, size=POSITIVE.shape), -1, 1)
    fused = 5.0 * POSITIVE + draw.normal(scale=fused_noise, size=POSITIVE.shape)
    return reranking.Candidates(*reranking.best(cosines, K), fused.astype(np.float32)), cosines


def by_hand(row: np.ndarray, fused: np.ndarray, weight: float) -> list[int]:
    """Return one query's candidates in order: the K best cosines by the joined score, then the others by cosine."""
    order = sorted(range(len(row)), key=lambda j: -row[j])
    return sorted(order[:K], key=lambda j: -(fused[j] + weight * row[j])) + order[K:]


def test_the_best_candidates_are_reordered_and_all_others_stay_behind():
    candidates, cosines = scores(3.0)
    by_text, by_image = reranking.reorder(candidates, cosines, 2.5)
    for text in range(TEXTS):
        assert np.argsort(-by_text[text]).tolist() == by_hand(cosines[text], candidates.fused[text], 2.5)
    for image in range(IMAGES):
        assert np.argsort(-by_image[image]).tolist() == by_hand(cosines[:, image], candidates.fused[:, image], 2.5)


def test_every_candidate_and_every_true_pair_is_fused_once():
    candidates, _ = scores(1.0)
    wanted = {(text, int(image)) for text in range(TEXTS) for image in candidates.by_text[text]}
    wanted |= {(int(text), image) for image in range(IMAGES) for text in candidates.by_image[image]}
    wanted |= {(text, int(TEXT_IDS[text])) for text in range(TEXTS)}
    rows, columns = reranking.pairs(candidates.by_text, candidates.by_image, POSITIVE)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == sorted(wanted)


def mean_reciprocal_rank(candidates: reranking.Candidates, cosines: np.ndarray, weight: float) -> float:
    """Return it over both directions, by hand."""
    fused, values = candidates.fused, []
    for text in range(TEXTS):
        order = by_hand(cosines[text], fused[text], weight * SCALE)
        values.append(1 / (1 + order.index(TEXT_IDS[text])) / TEXTS)
    for image in range(IMAGES):
        order = by_hand(cosines[:, image], fused[:, image], weight * SCALE)
        true = np.flatnonzero(image == TEXT_IDS)
        first = min(order.index(text) for text in true)
        values.append(1 / (1 + first) / IMAGES)
    return sum(values)


@pytest.mark.parametrize("seed", range(4))
def test_the_fitted_weight_ranks_best_and_is_the_largest_of_equals(seed):
    candidates, cosines = scores(4.0, seed)
    fitted = reranking.fit(candidates, cosines, SCALE, TEXT_IDS, IMAGE_IDS)
    quality = {weight: mean_reciprocal_rank(candidates, cosines, weight) for weight in reranking.WEIGHTS}
    best = max(quality.values())
    assert fitted == max(weight for weight, value in quality.items() if value > best - 1e-12)


def test_a_bridge_that_knows_all_is_followed_and_one_that_is_wrong_is_not():
    candidates, cosines = scores(0.0)
    weight = reranking.fit(candidates, cosines, SCALE, TEXT_IDS, IMAGE_IDS)
    by_text, _ = reranking.reorder(candidates, cosines, SCALE * weight)
    reachable = POSITIVE[np.arange(TEXTS)[:, None], candidates.by_text].any(axis=1)
    assert np.array_equal(np.argmax(by_text, axis=1)[reachable], TEXT_IDS[reachable])
    opposite = candidates._replace(fused=-candidates.fused)
    assert reranking.fit(opposite, cosines, SCALE, TEXT_IDS, IMAGE_IDS) == reranking.WEIGHTS[-1]
