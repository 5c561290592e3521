import tracemalloc

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.evals.scores import recall

# Two images (ids 7, 8) with two captions each; rows are texts.
SCORES = np.array([[0.9, 0.1], [0.2, 0.3], [0.5, 0.5], [0.1, 0.8]], np.float32)
TEXT_IDS, IMAGE_IDS = np.array([7, 7, 8, 8]), np.array([7, 8])


def by_sorting(scores, query_ids, candidate_ids):
    """The slow twin: sort every row, negatives first within a tie, and look for the first positive."""
    found = []
    for row, query in zip(np.asarray(scores).tolist(), query_ids, strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], candidate_ids[c] == query))
        found.append(1 + [candidate_ids[c] == query for c in order].index(True))
    return np.array(found)


def case(seed, images=23, captions=5, levels=9, dtype=np.float32):
    """A random problem whose scores take few values, so that ties are everywhere."""
    generator = np.random.default_rng(seed)
    image_ids = generator.permutation(1000)[:images]
    text_ids = generator.permutation(np.repeat(image_ids, captions))
    scores = generator.integers(levels, size=(len(text_ids), images)).astype(dtype)
    return scores, text_ids, image_ids


def test_known_ranks_in_both_directions():
    assert recall.ranks(SCORES, TEXT_IDS, IMAGE_IDS).tolist() == [1, 2, 2, 1]
    # Image 7: caption 0 (0.9) leads. Image 8: caption 3 (0.8) leads; its other caption does not stand in the way.
    assert recall.ranks(SCORES.T, IMAGE_IDS, TEXT_IDS).tolist() == [1, 1]


def test_known_summary():
    assert recall.summary(np.array([1, 1, 3, 6, 11, 200, 2, 10])) == {
        "r@1": 25.0, "r@5": 50.0, "r@10": 75.0, "median_rank": 4.5,
    }  # fmt: skip
    with pytest.raises(ValueError, match="at least one rank"):
        recall.summary(np.array([], np.int64))


def test_retrieval_names_both_directions_and_sums_the_six_recalls():
    result = recall.retrieval(SCORES, TEXT_IDS, IMAGE_IDS)
    assert result == {
        "text_to_image/r@1": 50.0, "text_to_image/r@5": 100.0, "text_to_image/r@10": 100.0,
        "text_to_image/median_rank": 1.5,
        "image_to_text/r@1": 100.0, "image_to_text/r@5": 100.0, "image_to_text/r@10": 100.0,
        "image_to_text/median_rank": 1.0,
        "rsum": 550.0,
    }  # fmt: skip


def test_image_scores_of_their_own_decide_image_to_text_alone():
    reversed_scores = -SCORES.T
    result = recall.retrieval(SCORES, TEXT_IDS, IMAGE_IDS, image_scores=reversed_scores)
    assert result["text_to_image/r@1"] == 50.0
    # Image 7: -0.1 (caption 3) beats its own -0.2. Image 8: -0.1 (caption 0) beats its own -0.5.
    assert result["image_to_text/r@1"] == 0.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_sorting(seed, dtype):
    scores, text_ids, image_ids = case(seed, dtype=dtype)
    np.testing.assert_array_equal(recall.ranks(scores, text_ids, image_ids), by_sorting(scores, text_ids, image_ids))
    np.testing.assert_array_equal(
        recall.ranks(scores.T, image_ids, text_ids), by_sorting(scores.T, image_ids, text_ids)
    )


def test_chunks_change_nothing(monkeypatch):
    scores, text_ids, image_ids = case(0)
    whole = recall.ranks(scores, text_ids, image_ids)
    for elements in (1, 50, 23 * 7):  # one row, two rows, seven rows at a time; 115 rows are no multiple of seven
        monkeypatch.setattr(recall, "_CHUNK_ELEMENTS", elements)
        np.testing.assert_array_equal(recall.ranks(scores, text_ids, image_ids), whole)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_memory_is_that_of_a_chunk(monkeypatch, dtype):
    scores, ids = np.zeros((800, 5000), dtype), np.arange(5000)
    monkeypatch.setattr(recall, "_CHUNK_ELEMENTS", 1 << 17)
    for matrix, query_ids, candidate_ids in ((scores, ids[:800], ids), (scores[:, :800].T, ids[:800], ids[:800])):
        tracemalloc.start()
        recall.ranks(matrix, query_ids, candidate_ids)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.5e6  # the chunk as float64 and its masks: 13 bytes an element; the whole is 4 million elements


def test_order_of_candidates_and_queries_changes_nothing():
    scores, text_ids, image_ids = case(1)
    generator = np.random.default_rng(0)
    texts, images = generator.permutation(len(text_ids)), generator.permutation(len(image_ids))
    shuffled = recall.retrieval(scores[texts][:, images], text_ids[texts], image_ids[images])
    assert shuffled == pytest.approx(recall.retrieval(scores, text_ids, image_ids), abs=1e-9)


def test_ids_may_be_strings():
    names = {7: "COCO_val2014_7.jpg", 8: "COCO_val2014_8.jpg"}
    text_names, image_names = [names[i] for i in TEXT_IDS], [names[i] for i in IMAGE_IDS]
    assert recall.retrieval(SCORES, text_names, image_names) == recall.retrieval(SCORES, TEXT_IDS, IMAGE_IDS)


def test_a_collapsed_model_finds_nothing():
    _, text_ids, image_ids = case(2)
    for value in (0.0, 0.7, -np.inf):
        result = recall.retrieval(np.full((len(text_ids), len(image_ids)), value), text_ids, image_ids)
        assert result["rsum"] == 0.0
        assert result["text_to_image/median_rank"] == len(image_ids)
        assert result["image_to_text/median_rank"] == len(text_ids) - 4  # the four other captions are not in the way


def test_a_candidate_left_out_by_minus_infinity_is_never_ahead():
    scores = np.array([[0.2, -np.inf, -np.inf]])
    assert recall.ranks(scores, np.array([0]), np.array([0, 1, 2])).tolist() == [1]
    assert recall.ranks(scores, np.array([1]), np.array([0, 1, 2])).tolist() == [3]


@pytest.mark.parametrize("place", [(0, 0), (2, 1), (3, 0)])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_nan_is_an_error_that_names_the_direction(place, chunk, monkeypatch):
    monkeypatch.setattr(recall, "_CHUNK_ELEMENTS", chunk)
    scores = SCORES.copy()
    scores[place] = np.nan
    query, candidate = place
    with pytest.raises(FloatingPointError, match=rf"^text_to_image: .* query {query} and candidate {candidate} is NaN"):
        recall.retrieval(scores, TEXT_IDS, IMAGE_IDS)
    with pytest.raises(FloatingPointError, match=rf"^image_to_text: .* query {candidate} and candidate {query} is NaN"):
        recall.retrieval(SCORES, TEXT_IDS, IMAGE_IDS, image_scores=scores.T)


def test_shapes_and_missing_positives_are_errors():
    with pytest.raises(ValueError, match=r"text_to_image: expected scores of shape .* \[4, 2\] .* got \[2, 4\]"):
        recall.retrieval(SCORES.T, TEXT_IDS, IMAGE_IDS)
    with pytest.raises(ValueError, match=r"text_to_image: query 3 \(id 9\) has no positive"):
        recall.retrieval(SCORES, np.array([7, 7, 8, 9]), IMAGE_IDS)


def test_folds_are_galleries_of_their_own():
    # Images 0..3, one caption each. In the whole gallery image 3 steals every text; inside its own fold only text 2.
    scores = np.eye(4) + np.array([0, 0, 0, 2])
    ids = np.arange(4)
    assert recall.retrieval(scores, ids, ids)["text_to_image/r@1"] == 25.0
    assert recall.folds(scores, ids, ids, 2)["text_to_image/r@1"] == 75.0


def test_folds_are_the_mean_of_their_parts():
    scores, text_ids, image_ids = case(3, images=12)
    parts = []
    for start in range(0, 12, 4):
        images = np.arange(start, start + 4)
        texts = [row for row, image in enumerate(text_ids) if image in image_ids[images]]
        parts.append(recall.retrieval(scores[texts][:, images], text_ids[texts], image_ids[images]))
    result = recall.folds(scores, text_ids, image_ids, 3, image_scores=scores.T)
    assert result == pytest.approx({name: np.mean([part[name] for part in parts]) for name in parts[0]})
    assert recall.folds(scores, text_ids, image_ids, 1) == recall.retrieval(scores, text_ids, image_ids)


def test_unequal_folds_and_repeated_images_are_errors():
    with pytest.raises(ConfigError, match=r"evals\.retrieval\.folds: 3 folds do not divide 2 images"):
        recall.folds(SCORES, TEXT_IDS, IMAGE_IDS, 3)
    with pytest.raises(ValueError, match="an image occurs twice"):
        recall.folds(SCORES, TEXT_IDS, np.array([7, 7]), 2)


def test_bootstrap_is_as_wide_as_the_binomial():
    queries, p = 2000, 0.3
    found = np.where(np.arange(queries) < p * queries, 1, 2)
    low, high = recall.bootstrap(found, np.arange(queries), samples=2000, seed=0)["r@1"]
    half = 100 * 1.96 * np.sqrt(p * (1 - p) / queries)
    assert low == pytest.approx(100 * p - half, abs=0.15)
    assert high == pytest.approx(100 * p + half, abs=0.15)


def test_bootstrap_interval_covers_the_truth_and_only_when_clusters_stay_together():
    """Five captions that succeed or fail together: 95 % intervals must hold the truth about 95 times in 100."""
    generator, images, p, trials = np.random.default_rng(0), 150, 0.3, 100
    clusters = np.repeat(np.arange(images), 5)
    covered = {"clusters": 0, "captions": 0}
    for trial in range(trials):
        found = np.repeat(np.where(generator.random(images) < p, 1, 2), 5)
        for name, groups in (("clusters", clusters), ("captions", np.arange(len(found)))):
            low, high = recall.bootstrap(found, groups, samples=100, seed=trial)["r@1"]
            covered[name] += low <= 100 * p <= high
    # The binomial standard deviation of the count is 2.2: 95 expected, four deviations allowed.
    assert 86 <= covered["clusters"] <= 100
    assert covered["captions"] < 80  # sqrt(5) too narrow: 62 % expected


def test_bootstrap_repeats_with_its_seed():
    found = np.random.default_rng(0).integers(1, 30, 500)
    clusters = np.arange(500) // 5
    first = recall.bootstrap(found, clusters, 50, seed=1)
    assert first == recall.bootstrap(found, clusters, 50, seed=1)
    assert first != recall.bootstrap(found, clusters, 50, seed=2)
    with pytest.raises(ValueError, match="one cluster for each"):
        recall.bootstrap(found, clusters[:-1], 50, seed=1)


def test_retrieval_brackets_every_number_when_asked():
    scores, text_ids, image_ids = case(5)
    result = recall.retrieval(scores, text_ids, image_ids, bootstrap_samples=50, seed=1)
    plain = recall.retrieval(scores, text_ids, image_ids)
    assert {name: result[name] for name in plain} == plain
    for name in plain.keys() - {"rsum"}:
        assert result[f"{name}_low"] <= plain[name] <= result[f"{name}_high"]
    # Texts are drawn by image: with captions of one image together the interval is the cluster's.
    low_high = recall.bootstrap(recall.ranks(scores, text_ids, image_ids), text_ids, 50, 1)["r@5"]
    assert (result["text_to_image/r@5_low"], result["text_to_image/r@5_high"]) == low_high


def test_paired_bootstrap_sees_a_gain_that_single_intervals_hide():
    generator = np.random.default_rng(0)
    b = np.where(generator.random(1000) < 0.3, 1, 3)
    a = b.copy()
    a[np.flatnonzero(b == 3)[::35][:20]] = 1  # 20 more queries found all over the set, none lost: + 2 points
    clusters = np.arange(1000) // 5
    result = recall.paired_bootstrap(a, b, clusters, 500, seed=0)
    assert result["r@1"].value == pytest.approx(2.0)
    assert 0 < result["r@1"].low < 2.0 < result["r@1"].high
    assert result["r@1"].p == pytest.approx(1 / 501)
    assert result["r@5"] == recall.Difference(0.0, 0.0, 0.0, 1.0)  # nothing gained: never called better
    single = recall.bootstrap(a, clusters, 500, 0)["r@1"]
    assert single[0] < 100 * np.mean(b == 1)
    opposite = recall.paired_bootstrap(b, a, clusters, 500, seed=0)["r@1"]
    assert opposite.value == -result["r@1"].value
    assert opposite.p == 1.0
    with pytest.raises(ValueError, match="same queries"):
        recall.paired_bootstrap(a, b[:-1], clusters, 10, seed=0)


def test_paired_bootstrap_keeps_clusters_together():
    """Five captions that are won together are one observation: the interval is sqrt(5) wider."""
    a = np.repeat(np.where(np.random.default_rng(0).random(200) < 0.3, 1, 2), 5)
    b = np.full(1000, 2)
    together = recall.paired_bootstrap(a, b, np.arange(1000) // 5, 400, seed=0)["r@1"]
    apart = recall.paired_bootstrap(a, b, np.arange(1000), 400, seed=0)["r@1"]
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(5), rel=0.15)


def test_paired_p_is_uniform_without_a_difference():
    """Two equally good models: p below 0.1 must be about as rare as one in ten."""
    generator, trials = np.random.default_rng(1), 200
    rare = 0
    for trial in range(trials):
        a, b = (np.where(generator.random(200) < 0.4, 1, 2) for _ in range(2))
        rare += recall.paired_bootstrap(a, b, np.arange(200), 99, seed=trial)["r@1"].p <= 0.1
    assert 5 <= rare <= 40  # 20 expected, deviation 4.2


def test_two_way():
    assert recall.two_way(np.array([0.9, 0.2, 0.5, 0.3]), np.array([0.1, 0.3, 0.5, 0.2])) == 0.5
    assert recall.two_way(np.zeros(8), np.zeros(8)) == 0.0
    with pytest.raises(FloatingPointError, match="two_way"):
        recall.two_way(np.array([1.0]), np.array([np.nan]))
    with pytest.raises(ValueError, match="one negative for each pair"):
        recall.two_way(np.zeros((4, 1)), np.zeros(4))
