"""The arithmetic of verdicts against numbers worked out by hand, and how often it is wrong where nothing differs."""

import numpy as np
import pytest

from tools.ablation import verdict

PHOTOS = np.array([7, 7, 9, 9])  # two photos of two captions each


def made(value: float, p: float, seeds: int, over_photos: float = 1.0, over_seeds: float = 1.0) -> verdict.Difference:
    return verdict.Difference(value, value - 1, value + 1, p, seeds, 100, over_photos, over_seeds)


def test_a_difference_by_hand():
    a = [np.array([1, 1, 1, 2]), np.array([1, 1, 3, 1])]  # 3 of 4 found with either seed
    b = [np.array([1, 2, 2, 2]), np.array([1, 2, 2, 1])]  # 1 of 4, then 2 of 4
    # Gains of the photos: 50 and 50 with the first seed, 50 and 0 with the second.
    found = verdict.difference(a, b, PHOTOS)
    assert (found.value, found.seeds, found.photos) == (37.5, 2, 2)
    assert found.over_photos == pytest.approx(np.var([50, 25], ddof=1) / 2)
    assert found.over_seeds == pytest.approx(np.var([50, 25], ddof=1) / 2)
    # Both variances are 156.25, each with one degree of freedom: SE = 17.68, and Satterthwaite gives two of freedom,
    # for which P(|t| > x) = 1 - x / sqrt(2 + x^2).
    t = 37.5 / np.sqrt(312.5)
    assert found.p == pytest.approx(1 - t / np.sqrt(2 + t**2))
    assert found.high - found.value == pytest.approx(4.302653 * np.sqrt(312.5), rel=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_more_captions_of_the_same_photos_tell_nothing_new():
    draw = np.random.default_rng(0)
    photos = np.repeat(np.arange(20), 2)
    a, b = draw.integers(1, 4, (2, 3, 40))
    one = verdict.difference(a, b, photos)
    twice = verdict.difference(np.tile(a, 2), np.tile(b, 2), np.tile(photos, 2))
    assert twice == pytest.approx(one)
    order = draw.permutation(40)
    assert verdict.difference(a[:, order], b[:, order], photos[order]) == pytest.approx(one)
    other = verdict.difference(b, a, photos)
    assert (other.value, other.low, other.p) == pytest.approx((-one.value, -one.high, one.p))


def test_one_seed_has_no_spread_over_seeds_and_equal_rows_no_difference():
    ranks = [np.array([1, 2, 1, 2])]
    assert verdict.difference(ranks, [np.array([2, 2, 1, 2])], PHOTOS).over_seeds == 0
    same = verdict.difference(ranks, ranks, PHOTOS)
    assert (same.value, same.p) == (0, 1)
    with pytest.raises(ValueError, match="expected ranks"):
        verdict.difference(ranks, [np.array([1, 2])], PHOTOS)


def test_holms_correction_by_hand():
    """The least p times three, the next times two, and none less than one before it; few seeds are left out."""
    found = [made(1, 0.01, 3), made(1, 0.0001, 2), made(1, 0.04, 3), made(-1, 0.03, 4)]
    assert verdict.corrected(found) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert verdict.corrected([made(1, 0.01, 1)]) == [None]


@pytest.mark.parametrize(
    ("value", "p", "seeds", "says"),
    [
        (2.0, 0.01, 3, "confirmed"),
        (-2.0, 0.01, 3, "refuted"),
        (2.0, 0.2, 3, "undecided at 3 seeds"),
        (2.0, 0.01, 2, "undecided at 2 seeds"),
        (2.0, 0.01, 1, "undecided at 1 seed"),
    ],
)
def test_all_three_words(value, p, seeds, says):
    found = made(value, p, seeds)
    (corrected,) = verdict.corrected([found])
    assert verdict.word(found, corrected) == says


def test_ranks_that_differ_clearly_are_decided_both_ways():
    draw, photos = np.random.default_rng(0), np.arange(200)
    good, bad = draw.random((3, 200)) < 0.8, draw.random((3, 200)) < 0.3
    for a, b, says in ((good, bad, "confirmed"), (bad, good, "refuted")):
        found = verdict.difference(2 - a, 2 - b, photos)
        assert verdict.word(found, verdict.corrected([found])[0]) == says


def test_what_would_decide_does():
    """With the variances seen and that many seeds, or photos, the difference is z standard errors wide."""
    found = made(4.0, 0.2, 3, over_photos=0.5, over_seeds=6.0)
    z = 1.959964 + 0.841621
    wanted = verdict.wanted(found, tests=1)
    for seeds, enough in ((wanted.seeds, True), (wanted.seeds - 1, False)):
        assert (z * np.sqrt(0.5 + 6.0 * 3 / seeds) <= 4.0) == enough
    assert wanted.photos is None  # seeds alone spread by more than the difference
    assert verdict.wanted(found, tests=8).seeds > wanted.seeds
    few = verdict.wanted(made(4.0, 0.2, 3, over_photos=6.0, over_seeds=0.5), tests=1)
    assert few.seeds is None
    for photos, enough in ((few.photos, True), (few.photos - 1, False)):
        assert (z * np.sqrt(0.5 + 6.0 * 100 / photos) <= 4.0) == enough
    assert verdict.wanted(made(0.0, 1.0, 3), tests=1) == (None, None)
    with pytest.raises(ValueError, match="two seeds"):
        verdict.wanted(made(1.0, 0.5, 1), tests=1)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5], ids="over seeds {}".format)
def test_where_nothing_differs_few_claims_are_decided(spread):
    """At most 5 % are, at p < 0.05, whichever of the two spreads is the larger; 400 draws, so 8 % at most here."""
    draw, photos, wrong = np.random.default_rng(0), np.repeat(np.arange(60), 3), 0
    for _ in range(400):
        hard = draw.normal(size=60)

        def ranks(hard=hard):
            seeds = spread * draw.normal(size=(3, 1)) + draw.normal(size=(3, 60))
            return np.where((hard + seeds)[:, photos] + draw.normal(size=(3, 180)) > 0, 1, 2)

        wrong += verdict.difference(ranks(), ranks(), photos).p < verdict.LEVEL
    assert wrong <= 32
