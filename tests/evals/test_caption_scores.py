"""Scores of captions, against the code of the COCO caption evaluation and against cases made by hand."""

import json
import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from bridge_jax.evals.scores import caption, ptb


def by_coco(candidates, references):
    """The reference: its four BLEUs, ROUGE-L and CIDEr of the set, and the last two of each picture."""
    given = {picture: [candidate] for picture, candidate in enumerate(candidates)}
    known = {picture: list(others) for picture, others in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(known, given, verbose=0)
    (rouge, rouges), (cider, ciders) = (kind().compute_score(known, given) for kind in (Rouge, Cider))
    return [*bleu, rouge, cider], rouges, ciders


def case(seed, pictures=30, words=12):
    """Random captions of few different words, so that n-grams of all lengths repeat."""
    generator = np.random.default_rng(seed)

    def draw():
        return " ".join(f"w{word}" for word in generator.zipf(1.5, generator.integers(1, 15)) if word < words)

    references = [[draw() or "w0" for _ in range(generator.integers(1, 6))] for _ in range(pictures)]
    return [f"w0 w0 {draw()}".strip() for _ in range(pictures)], references


def values(candidates, references):
    found = caption.scores(candidates, references, samples=1, seed=0)
    return [found[name] for name in caption.NAMES]


def agree(candidates, references):
    expected, rouges, ciders = by_coco(candidates, references)
    assert values(candidates, references) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(caption.rouge_l(candidates, references), rouges, atol=1e-12)
    np.testing.assert_allclose(caption.cider(candidates, references), ciders, atol=1e-12)


def test_agrees_with_the_coco_code_on_photos(shared):
    """Caption 0 of 200 photos is scored against captions 1 to 4."""
    images = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text(encoding="utf-8"))["images"][:200]
    captions = [[ptb.tokenise(sentence["raw"]) for sentence in image["sentences"]] for image in images]
    agree([first for first, *_ in captions], [others for _, *others in captions])


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_coco_code_on_random_captions(seed):
    agree(*case(seed))


def test_a_caption_that_is_its_reference_has_the_highest_scores():
    captions = ["a dog runs fast", "two cats sleep on sofas"]
    assert values(captions, [[text] * 3 for text in captions]) == pytest.approx([1, 1, 1, 1, 1, 10])


def test_no_word_in_common_is_exactly_zero():
    assert values(["a b c d", "e f g h"], [["i j k l"], ["m n o p", "q"]]) == [0.0] * 6


def test_brevity_and_missing_ngrams_by_hand():
    found = dict(zip(caption.NAMES, values(["the cat"], [["the cat sat down"]]), strict=True))
    assert found["bleu_1"] == found["bleu_2"] == pytest.approx(math.exp(1 - 4 / 2))
    assert found["bleu_3"] == found["bleu_4"] == 0.0
    assert found["rouge_l"] == pytest.approx(2.44 * 1.0 * 0.5 / (0.5 + 1.44 * 1.0))


def test_words_count_no_more_often_than_in_the_best_reference():
    """The example of the BLEU paper: seven times `the` has a precision of 2/7."""
    references = ["the cat is on the mat", "there is a cat on the mat"]
    counts = caption.counts(["the " * 7], [references])
    assert (counts.correct[0].tolist(), counts.ngrams[0].tolist()) == ([2, 0, 0, 0], [7, 6, 5, 4])
    assert values(["the " * 7], [references])[0] == pytest.approx(2 / 7)


def test_bleu_is_of_sums_and_not_a_mean_of_pictures():
    # 1 of 1 and 2 of 4 words: 3/5, not 3/4. The set is as long as its references, so no brevity penalty.
    assert values(["a", "b c d e"], [["a"], ["b c x y"]])[0] == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("sizes", "closest"), [((2, 4), 2), ((4, 2), 2), ((4, 7), 4), ((1, 3), 3), ((5,), 5), ((9, 1), 1)]
)
def test_the_closest_reference_and_the_shorter_of_two(sizes, closest):
    counts = caption.counts(["a b c"], [["x " * size for size in sizes]])
    assert (counts.words[0], counts.reference_words[0]) == (3, closest)


def test_rouge_takes_precision_and_recall_from_the_best_references():
    long, short = "a x b y c z z", "a"
    # P = 3/4 and R = 3/7 by the first; by the second R = 1, with P = 1/4.
    assert caption.rouge_l(["a b c d"], [[long]])[0] == pytest.approx(2.44 * (3 / 4) * (3 / 7) / (3 / 7 + 1.44 * 3 / 4))
    assert caption.rouge_l(["a b c d"], [[long, short]])[0] == pytest.approx(2.44 * (3 / 4) * 1 / (1 + 1.44 * 3 / 4))
    assert caption.rouge_l(["c b a"], [["a b c"]])[0] == pytest.approx(1 / 3)  # order counts


def test_cider_by_hand():
    """`a` is in both pictures and weighs nothing; all else weighs log 2."""
    first, second = caption.cider(["a dog", "a cat"], [["a dog runs"], ["a cat"]])
    # Cosines 1/sqrt 2 for n = 1 (dog; dog, runs) and n = 2 (a dog; a dog, dog runs); one word too few.
    assert first == pytest.approx(10 * (2 / math.sqrt(2)) / 4 * math.exp(-1 / 72))
    assert second == pytest.approx(10 * 2 / 4)
    # A repeated word is clipped: min(2, 1) 1 / (2 1) = 1/2 for n = 1 alone; the mean over two references halves it.
    repeated = caption.cider(["dog dog", "a cat"], [["dog", "bird"], ["a cat"]])[0]
    assert repeated == pytest.approx(10 * (1 / 2) / 4 * math.exp(-1 / 72) / 2)


def test_one_picture_has_no_rare_phrase():
    assert caption.cider(["a dog runs fast"], [["a dog runs fast"]]).tolist() == [0.0]


def test_one_word_captions():
    assert values(["dog", "cat"], [["dog"], ["cat"]]) == pytest.approx([1, 0, 0, 0, 1, 10 / 4])


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_candidate_is_legal_and_scores_zero(empty):
    assert values([empty, empty], [["a dog", ""], ["a cat"]]) == [0.0] * 6
    references = [["a dog runs"], ["a cat sleeps"]]
    for score in (caption.rouge_l, caption.cider):
        assert score([empty, "a cat sleeps"], references)[0] == 0.0
        assert score([empty, "a cat sleeps"], references)[1] > 0.0
    # Its references' words are still missing: three of six.
    assert values([empty, "a cat sleeps"], references)[0] == pytest.approx(math.exp(1 - 6 / 3))


def test_order_of_pictures_and_references_changes_nothing():
    candidates, references = case(7)
    order = np.random.default_rng(0).permutation(len(candidates))
    shuffled = [candidates[i] for i in order], [references[i][::-1] for i in order]
    for score in (caption.rouge_l, caption.cider):
        np.testing.assert_allclose(score(*shuffled), score(candidates, references)[order], atol=1e-12)
    for ours, theirs in zip(caption.counts(*shuffled), caption.counts(candidates, references), strict=True):
        np.testing.assert_array_equal(ours, theirs[order])
    assert values(*shuffled) == pytest.approx(values(candidates, references))


def test_the_bootstrap_repeats_with_its_seed_and_holds_the_value():
    candidates, references = case(8, pictures=60)
    first = caption.scores(candidates, references, 200, seed=1)
    assert first == caption.scores(candidates, references, 200, seed=1)
    other = caption.scores(candidates, references, 200, seed=2)
    for name in caption.NAMES:
        assert first[f"{name}_low"] < first[name] < first[f"{name}_high"]
        assert first[name] == other[name]
        assert first[f"{name}_low"] != other[f"{name}_low"]


def test_the_bootstrap_agrees_with_scoring_the_drawn_captions():
    """The slow twin gives the drawn captions to the COCO code; CIDEr keeps what it said of the whole set."""
    candidates, references = case(9, pictures=80)  # enough for a 4-gram that agrees in every draw
    _, _, ciders = by_coco(candidates, references)
    generator, drawn = np.random.default_rng(3), []
    for _ in range(40):
        rows = generator.integers(len(candidates), size=len(candidates))
        expected, _, _ = by_coco([candidates[row] for row in rows], [references[row] for row in rows])
        drawn.append([*expected[:-1], ciders[rows].mean()])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    found = caption.scores(candidates, references, 40, seed=3)
    assert [found[f"{name}_low"] for name in caption.NAMES] == pytest.approx(low, abs=1e-9)
    assert [found[f"{name}_high"] for name in caption.NAMES] == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize("score", [caption.counts, caption.rouge_l, caption.cider])
def test_what_cannot_be_scored_is_an_error(score):
    for candidates, references in ((["a"], []), ([], []), (["a", "b"], [["a"]])):
        with pytest.raises(ValueError, match="one candidate for each of at least one picture"):
            score(candidates, references)
    with pytest.raises(ValueError, match=r"list of references for picture 1, got \[\]"):
        score(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="list of references for picture 0, got 'a b'"):
        score(["a"], ["a b"])


def test_scores_need_a_sample_and_pictures():
    with pytest.raises(ValueError, match="at least one sample"):
        caption.scores(["a"], [["a"]], samples=0, seed=0)
    with pytest.raises(ValueError, match="at least one picture"):
        caption.scores([], [], samples=1, seed=0)
