"""Batches of one size: every row once and in order, then the last one again."""

import numpy as np
import pytest

from bridge_jax.data.padding import padded_batches


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 4), (4, 4), (5, 4), (8, 3)])
def test_every_row_once_and_the_last_again(count, size):
    batches = list(padded_batches(count, size))
    assert all(rows.shape == valid.shape == (size,) for rows, valid in batches)
    rows, valid = (np.concatenate(column) for column in zip(*batches, strict=True))
    np.testing.assert_array_equal(rows[valid], np.arange(count))
    np.testing.assert_array_equal(rows[~valid], count - 1)
    assert len(batches) == -(-count // size)


def test_no_rows_make_no_batch():
    assert list(padded_batches(0, 3)) == []
