"""bridge_jax/evals/scores/compositionality.py counts items as the benchmarks do: cases by hand, and all of them."""

import itertools

import numpy as np
import pytest

from bridge_jax.evals.scores.compositionality import Statement, measure, right


def said(*items):
    """Statements of items: (name, the truth of its captions about each of its photos)."""
    return [
        Statement(name, 100 * number + photo, str(caption), bool(true))
        for number, (name, photos) in enumerate(items)
        for photo, truths in enumerate(photos)
        for caption, true in enumerate(truths)
    ]


def test_an_item_is_right_as_sugarcrepe_counts_it():
    """Every true caption must score above the false one; a tie is wrong."""
    items = said(("k/a", [(1, 0)]), ("k/b", [(1, 1, 0)]), ("k/c", [(0, 1)]), ("k/d", [(1, 0)]))
    scores = np.array([[2, 1], [1, 2], [3, 3], [1, 3], [2, 2], [0, 1], [1, 0], [1, 1], [1, 0]], float)
    (counted,) = measure(items, scores).values()
    np.testing.assert_array_equal(counted.right, [[1, 0], [0, 1], [1, 0], [0, 1]])
    assert counted.first == [0, 2, 5, 7]
    np.testing.assert_array_equal(right(items, scores)[:, 0], np.repeat([1, 0, 1, 0], [2, 3, 2, 2]))


CASES = list(itertools.permutations(range(4)))  # every order of the four scores of an item


def test_items_of_two_photos_are_right_as_winoground_counts_them():
    """Thrush et al. 2022, 3: text, image and group score; chance is a quarter, a quarter and a sixth."""
    items = said(*((f"k/{number}", [(1, 0), (0, 1)]) for number in range(len(CASES))))
    counted = measure(items, np.array(CASES, float).reshape(-1, 1))
    expected = {"text": [], "image": [], "group": []}
    for c0_i0, c1_i0, c0_i1, c1_i1 in CASES:
        text, image = c0_i0 > c1_i0 and c1_i1 > c0_i1, c0_i0 > c0_i1 and c1_i1 > c1_i0
        expected["text"].append(text)
        expected["image"].append(image)
        expected["group"].append(text and image)
    assert {name: found.right[:, 0].tolist() for name, found in counted.items()} == expected
    assert [sum(found) / len(CASES) for found in expected.values()] == pytest.approx([1 / 4, 1 / 4, 1 / 6])


def test_pairs_and_sets_are_right_as_whatsup_counts_them():
    wins = {"left": 1, "right": 1, "on": 1, "under": 0}
    other = {"left": 1, "right": 1, "on": 1, "under": 1}
    names, values = [], []
    for objects, won in (("mug plate", wins), ("cap sink", other)):
        for place, right_one in won.items():
            axis = "sideways" if place in ("left", "right") else "other"
            names.append((f"controlled_images/{objects}/{axis}/{place}", [(1, 0, 0, 0)]))
            values += [[2.0 if right_one else 0.0], [1], [1], [1]]
    counted = measure(said(*names), np.array(values))
    assert {name: found.right.mean() for name, found in counted.items()} == {"": 7 / 8, "pair": 3 / 4, "set": 1 / 2}


def test_an_item_without_one_of_its_photos_is_left_out():
    items = [one for one in said(("k/a", [(1, 0), (0, 1)]), ("k/b", [(1, 0), (0, 1)])) if one.photo != 101]
    assert measure(items, np.ones((6, 1)))["group"].first == [0]
