"""Semi-hard mining: the band, uniformity in it, the hardest outside it, and who is barred."""

import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax.step.mining import false_negatives, semi_hard
from tests import tiny

B = 6
# The true pairs score 0.8, so the band of margins 0.2 and 0.5 is 0.3 < s < 0.6.
ROW = np.array([0.8, 0.59, 0.45, 0.31, 0.61, 0.29])


def scores(row=ROW):
    """Return [B,B] with `row` as seen from each query: row i is rolled, so that its true pair is on the diagonal."""
    return np.stack([np.roll(row, i) for i in range(len(row))]).astype(np.float32)


def settings(partners=2, margins=(0.2, 0.5), **changes):
    values = dict(partners=partners, margin_min=margins[0], margin_max=margins[1]) | changes
    return dataclasses.replace(tiny.config().mining, **values)


def pick(matrix, seed=0, same=None, **changes):
    same = np.eye(len(matrix), dtype=bool) if same is None else same
    mined = semi_hard(matrix, same, jax.random.key(seed), settings(**changes))
    return tuple(map(np.asarray, mined))


def test_all_picks_lie_in_the_band_and_differ():
    for seed in range(20):
        index, valid = pick(scores(), seed)
        assert valid.all()
        back = (index - np.arange(B)[:, None]) % B
        assert set(back.ravel()) <= {1, 2, 3}
        assert (index[:, 0] != index[:, 1]).all()


def test_picks_are_uniform_in_the_band():
    """Draw one partner 6000 times from three equal columns: 99.9 % of fair counts lie within 2000 +- 120."""
    keys = jax.random.split(jax.random.key(0), 1000)
    index, _ = jax.vmap(lambda key: semi_hard(scores(), np.eye(B, dtype=bool), key, settings(1)))(keys)
    back = (np.asarray(index)[..., 0] - np.arange(B)) % B
    counts = np.bincount(back.ravel(), minlength=B)
    assert counts[[0, 4, 5]].tolist() == [0, 0, 0]
    assert (np.abs(counts[1:4] - 2000) < 120).all(), counts


def test_rows_draw_on_their_own():
    index, _ = pick(scores(), partners=1)
    assert len(set((index[:, 0] - np.arange(B)) % B)) > 1


def test_an_empty_band_gives_the_hardest():
    index, valid = pick(scores(np.array([0.8, 0.79, 0.9, 0.1, 0.2, -0.9])))
    np.testing.assert_array_equal((index - np.arange(B)[:, None]) % B, [[2, 1]] * B)
    assert valid.all()


def test_a_short_band_is_filled_up_with_the_hardest():
    index, _ = pick(scores(np.array([0.8, 0.4, 0.79, 0.1, 0.2, -0.9])))
    np.testing.assert_array_equal((index - np.arange(B)[:, None]) % B, [[1, 2]] * B)


def test_the_margins_themselves_are_outside():
    """Binary fractions, so that a score can lie on the border exactly: only 0.375 is inside (0.25, 0.5)."""
    index, _ = pick(scores(np.array([0.75, 0.5, 0.375, 0.25, -1, -1])), margins=(0.25, 0.5))
    np.testing.assert_array_equal((index - np.arange(B)[:, None]) % B, [[2, 1]] * B)


def test_a_band_of_ranks_holds_the_columns_at_those_ranks():
    """Of 0.61, 0.59, 0.45, 0.31 and 0.29 the second to fourth; what is barred has no rank."""
    found = {tuple(sorted((pick(scores(), seed, ranks=(2, 4))[0][0]).tolist())) for seed in range(40)}
    assert found == {(1, 2), (1, 3), (2, 3)}
    barred = np.eye(B, dtype=bool) | np.roll(np.eye(B, dtype=bool), 1, axis=1)  # 0.59
    found = {tuple(sorted((pick(scores(), seed, same=barred, ranks=(2, 4))[0][0]).tolist())) for seed in range(40)}
    assert found == {(2, 3), (2, 5), (3, 5)}


def test_a_short_band_of_ranks_is_filled_up_with_the_hardest():
    index, valid = pick(scores(), ranks=(3, 3), partners=3)
    np.testing.assert_array_equal((index - np.arange(B)[:, None]) % B, [[2, 4, 1]] * B)
    assert valid.all()


def test_a_false_negative_scores_above_the_true_pair_by_more_than_the_margin():
    matrix = scores(np.array([0.5, 0.75, 0.625, 0.5, 0.25, -1.0]))
    above = np.asarray(false_negatives(matrix, settings(false_margin=0.125)))
    np.testing.assert_array_equal(above, np.roll(np.eye(B, dtype=bool), 1, axis=1))


def test_captions_of_the_own_image_are_never_picked():
    """They would be in the band, as would all other captions of the photo."""
    ids = np.array([0, 1, 0, 2, 0, 1])
    same = ids[:, None] == ids[None, :]
    for seed in range(20):
        index, valid = pick(scores(), seed, partners=3, same=same)
        assert (ids[index] != ids[:, None]).all()
        assert valid.all()


@pytest.mark.parametrize(("rows", "partners"), [(1, 1), (2, 3), (3, 2), (3, 5)])
def test_a_batch_with_too_few_other_images_says_so(rows, partners):
    index, valid = pick(np.full((rows, rows), 0.5, np.float32), partners=partners)
    assert index.shape == valid.shape == (rows, partners)
    others = rows - 1
    np.testing.assert_array_equal(valid, [[k < others for k in range(partners)]] * rows)
    assert ((index >= 0) & (index < rows)).all()
    for i in range(rows):
        assert set(index[i][valid[i]]) == set(range(rows)) - {i} or others > partners


def test_a_batch_of_one_photo_has_no_valid_partner():
    _, valid = pick(scores(), same=np.ones((B, B), bool))
    assert not valid.any()


def test_each_row_stands_for_itself():
    """A query's candidates depend on its own row alone (and the key)."""
    changed = scores()
    changed[3:] = -0.5
    np.testing.assert_array_equal(pick(scores())[0][:3], pick(changed)[0][:3])
