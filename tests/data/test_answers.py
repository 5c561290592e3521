"""VQA's rule against one written anew from its description, letter by letter, on random answers; and by hand."""

import itertools

import numpy as np
import pytest

from bridge_jax.data import answers

DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
          "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
APOSTROPHES = {"dont": "don't", "isnt": "isn't", "couldnt've": "couldn't've", "couldn'tve": "couldn't've",
               "twas": "'twas", "oclock": "o'clock", "yall": "y'all", "y'alld've": "y'all'd've", "hes": "he's",
               "somebody'd": "somebodyd"}  # fmt: skip
MARKS = set(';/[]"{}()=+\\_-><@`,?!')
WORDS = [*DIGITS, *APOSTROPHES, *APOSTROPHES.values(), "a", "an", "The", "red", "dog's", "2:50", "1,000", "3.5", "mr.",
         "T-shirt", "yes", "no", "ill", "shes", "girls"]  # fmt: skip


def strip_marks(text):
    """Go through the letters once, looking at the neighbours in the text as it was given."""
    number = any(a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False))
    beside = {a for a, b in itertools.pairwise(text) if b == " "} | {b for a, b in itertools.pairwise(text) if a == " "}
    kept = ["" if c in MARKS and (number or c in beside) else " " if c in MARKS else c for c in text]
    text, kept = "".join(kept), []
    for i, c in enumerate(text):
        decimal = i + 1 < len(text) and text[i + 1].isdigit()
        kept.append("" if c == "." and not decimal else c)
    return "".join(kept)


def clean(text):
    kept = []
    for word in strip_marks(text.strip()).lower().split():
        word = DIGITS.get(word, word)
        if word not in ("a", "an", "the"):
            kept.append(APOSTROPHES.get(word, word))
    return " ".join(kept)


def literally(given, said):
    """Leave each answer out in turn, and count among the nine that are left."""
    given = clean(given)
    said = said if len(set(said)) == 1 else [strip_marks(answer) for answer in said]
    worth = [min(sum(a == given for a in rest) / 3, 1) for rest in itertools.combinations(said, len(said) - 1)]
    return sum(worth) / len(worth)


def random_answer(draw):
    words = [str(draw.choice(WORDS)) for _ in range(draw.integers(1, 4))]
    text = words[0]
    for word in words[1:]:
        text += str(draw.choice([" ", "  ", "-", "/", ", ", " ,", "; ", "!"])) + word
    return text + str(draw.choice(["", "", "", ".", "?", " !", "..."]))


def test_equals_the_rule_on_2000_random_lists_of_answers():
    draw, kinds = np.random.default_rng(0), set()
    for _ in range(2000):
        pool = [random_answer(draw) for _ in range(draw.integers(1, 5))]
        said = [pool[i] for i in draw.integers(0, len(pool), 10)]
        for given in (pool[0], clean(pool[0]), random_answer(draw)):
            found = answers.accuracy(given, said)
            assert found == pytest.approx(literally(given, said), abs=1e-12), (given, said)
            assert answers.normalise(given) == clean(given)
            kinds.add(round(found, 3))
    assert kinds == {0, 0.3, 0.6, 0.9, 1}


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("The red dog.", "red dog"), ("none", "0"), ("Ten", "10"), ("1,000", "1000"), ("3.5 ft.", "3.5 ft"),
        ("t-shirt", "t shirt"), ("yes, it is", "yes it is"), ("dont", "don't"), ("2:50 pm", "2:50 pm"),
        ("girl's", "girl's"), ("black/white", "black white"), ("an  a the", ""), ("\tno\n", "no"),
    ],
)  # fmt: skip
def test_normalised_by_hand(given, normal):
    assert answers.normalise(given) == normal


def test_every_contraction_is_mended_by_one_apostrophe_and_a_right_one_stays():
    for word in answers._CONTRACTIONS.split():
        assert answers.normalise(word) == word
        for i in [i for i, letter in enumerate(word) if letter == "'"]:
            assert answers.normalise(word[:i] + word[i + 1 :]) == word
    for word in ("ill", "well", "shell", "id", "wed", "shed", "were"):  # words of their own
        assert answers.normalise(word) == word


def test_what_people_agree_on_is_compared_as_it_was_written():
    assert answers.accuracy("t-shirt", ["t-shirt"] * 10) == 0
    assert answers.accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1


def test_without_answers_there_is_no_accuracy():
    with pytest.raises(ValueError, match="expected the answers that people gave, got none"):
        answers.accuracy("red", [])


def test_the_scores_are_the_accuracies_of_the_known_answers():
    known = {"red": 0, "blue": 1, "green": 2}
    found = answers.scores(["Red"] * 0 + ["red"] * 6 + ["blue"] * 2 + ["mauve"] * 2, known)
    np.testing.assert_allclose(found, [1.0, 0.6, 0.0], atol=1e-6)
    assert found.dtype == np.float32
