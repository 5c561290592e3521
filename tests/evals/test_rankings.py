"""bridge_jax/evals/scores/rankings.py, against sorting by hand."""

import numpy as np

from bridge_jax.evals.scores import recall, reranking
from bridge_jax.evals.scores.rankings import rankings

IMAGE_IDS = np.array([7, 3, 9, 4, 8])
OWN = np.repeat(np.arange(5), [2, 1, 3, 2, 1])  # captions of each picture, in record order
K, SCALE, WEIGHT = 3, 20.0, 0.5


def drawn():
    draw = np.random.default_rng(0)
    cosines = draw.uniform(-1, 1, (len(OWN), 5))
    fused = draw.normal(scale=9, size=cosines.shape).astype(np.float32)
    candidates = reranking.Candidates(*reranking.best(cosines, K), fused)
    return cosines, fused, rankings(candidates, cosines, SCALE, WEIGHT, IMAGE_IDS[OWN], IMAGE_IDS)


def test_candidates_come_best_first_with_both_scores():
    cosines, fused, found = drawn()
    for ranked, towers, bridge in ((found.text_to_image, cosines, fused), (found.image_to_text, cosines.T, fused.T)):
        for query, picked in enumerate(ranked.candidates):
            assert picked.tolist() == sorted(range(towers.shape[1]), key=lambda c: -towers[query, c])[:K]
            np.testing.assert_allclose(ranked.unimodal[query], SCALE * towers[query, picked], rtol=1e-6)
            np.testing.assert_array_equal(ranked.fused[query], bridge[query, picked])


def test_ranks_are_those_of_the_orders():
    cosines, fused, found = drawn()
    score = fused + WEIGHT * SCALE * cosines
    for text, own in enumerate(OWN):
        order = sorted(range(5), key=lambda c: -cosines[text, c])
        after = sorted(order[:K], key=lambda c: -score[text, c]) + order[K:]
        assert found.text_to_image.unimodal_rank[text] == 1 + order.index(own)
        assert found.text_to_image.rerank_rank[text] == 1 + after.index(own)
    for image in range(5):
        order = sorted(range(len(OWN)), key=lambda t: -cosines[t, image])
        best = next(place for place, text in enumerate(order) if OWN[text] == image)
        ahead = [text for text in order[:best] if OWN[text] != image]
        assert found.image_to_text.unimodal_rank[image] == 1 + len(ahead)


def test_a_text_knows_its_record_its_place_and_its_true_scores():
    cosines, fused, found = drawn()
    assert found.text_record.tolist() == OWN.tolist()
    assert found.text_place.tolist() == [0, 1, 0, 0, 1, 2, 0, 1, 0]
    for text, own in enumerate(OWN):
        np.testing.assert_allclose(found.true_unimodal[text], SCALE * cosines[text, own], rtol=1e-6)
        assert found.true_fused[text] == fused[text, own]


def test_the_best_come_first_and_equal_ones_in_their_order():
    scores = np.array([[1.0, 5.0, 5.0, 2.0, 9.0, 5.0]])
    assert recall.top(scores, 4).tolist() == [[4, 1, 2, 5]]
    assert recall.top(scores, 2).tolist() == [[4, 1]]
