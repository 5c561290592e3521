"""bridge_jax/analysis/examples.py and kinds.py, against lists made by hand."""

import numpy as np

from bridge_jax.analysis import examples, kinds

BEFORE = np.array([2, 16, 16, 1, 1, 5, 9, 4])
AFTER = np.array([1, 1, 1, 3, 9, 5, 7, 1])
PHOTOS = np.array([0, 1, 1, 2, 3, 4, 5, 6])


def test_the_queries_that_moved_most_come_first_and_one_of_each_photo():
    assert examples.helped(BEFORE, AFTER, PHOTOS, 3) == [1, 7, 0]
    assert examples.helped(BEFORE, AFTER, PHOTOS, 9) == [1, 7, 0, 6]  # a rise from 9 to 7 comes last
    assert examples.hurt(BEFORE, AFTER, PHOTOS, 9) == [4, 3]


def test_what_both_orders_get_wrong_is_worst_first():
    assert examples.both_wrong(BEFORE, AFTER, PHOTOS, 9) == [6, 5]


def test_what_one_order_alone_finds_is_worst_of_the_other_first():
    assert examples.found_by_one(AFTER, BEFORE, PHOTOS, 9) == [1, 7, 0]
    assert examples.found_by_one(BEFORE, AFTER, PHOTOS, 9) == [4, 3]


def test_equal_queries_come_in_their_order():
    same = np.full(5, 2)
    assert examples.both_wrong(same, same, np.arange(5), 3) == [0, 1, 2]


def test_captions_are_sorted_by_their_words():
    captions = ["Two RED dogs", "a redder dog", "the ball left of a tall man", "dogs run"]
    assert [kinds.of_caption(caption) for caption in captions] == [["colour", "number"], [], ["size", "relation"], []]
    table = {kind: rows.tolist() for kind, rows in kinds.table(captions).items()}
    assert table == {
        "colour": [True, False, False, False],
        "number": [True, False, False, False],
        "size": [False, False, True, False],
        "relation": [False, False, True, False],
        "none of these": [False, True, False, True],
    }


def test_no_word_has_two_kinds():
    words = [word for each in kinds.WORDS.values() for word in each.split()]
    assert len(words) == len(set(words))
