"""Score an answer to a question by VQA v2's rule, as its evaluation server does.

Ten people answered. An answer that at least three of them gave is right; with fewer, each person counts a third. The
score is averaged over the ten ways to leave one person out (Antol et al. 2015; https://visualqa.org/evaluation.html).
Before the comparison the model's answer is normalised, and people's answers lose their punctuation unless all of them
agree. The official code does so; the published description normalises both sides alike.

>>> [round(accuracy("red", ["red"] * n + ["blue"] * (10 - n)), 2) for n in (0, 1, 2, 3, 4, 10)]
[0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
>>> normalise("The two dogs dont, run!")
"2 dogs don't run"
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

_MARKS = ';/[]"{}()=+\\_-><@`,?!'  # not the apostrophe (girl's) and not the colon (2:50)
_COMMA_IN_A_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # but not that of a decimal
_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
# An answer that lacks one apostrophe of these gets it.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_MENDED = {
    word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS.split() for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this pair the wrong way round


def without_punctuation(answer: str) -> str:
    """Replace every mark by a space, or drop it: beside a space, or where a number has a comma. Drop periods."""
    joined = _COMMA_IN_A_NUMBER.search(answer) is not None
    cleaned = answer
    for mark in _MARKS:
        beside = f"{mark} " in answer or f" {mark}" in answer
        cleaned = cleaned.replace(mark, "" if joined or beside else " ")
    return _PERIOD.sub("", cleaned)


def normalise(answer: str) -> str:
    """Take out punctuation, capitals and articles, write numbers as digits, and mend contractions."""
    words = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, answers: Sequence[str]) -> float:
    """Return the score of an answer, 0 to 1: min(n/3, 1) for n people who agree, averaged over leaving each one out.

    Raises ValueError where there are no `answers` of people to compare with.
    """
    if not answers:
        raise ValueError("accuracy: expected the answers that people gave, got none")
    answer = normalise(answer)
    if len(set(answers)) > 1:
        answers = [without_punctuation(other) for other in answers]
    same = sum(other == answer for other in answers)
    return (same * min((same - 1) / 3, 1) + (len(answers) - same) * min(same / 3, 1)) / len(answers)


def scores(answers: Sequence[str], known: Mapping[str, int]) -> Float32[np.ndarray, "A"]:
    """Return the score of each of the known answers: the target of the vqa loss."""
    target = np.zeros(len(known), np.float32)
    for answer in {normalise(answer) for answer in answers} & known.keys():
        target[known[answer]] = accuracy(answer, answers)
    return target


def draw(answers: Sequence[str], known: Mapping[str, int], generator: np.random.Generator) -> int | None:
    """Return a random known answer, each as likely as people gave it; None where none of people's answers is known."""
    outputs = [known[answer] for answer in map(normalise, answers) if answer in known]
    return outputs[generator.integers(len(outputs))] if outputs else None
