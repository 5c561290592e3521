"""Scores of captions in plain NumPy: BLEU-1 to 4, ROUGE-L and CIDEr-D, as the COCO caption evaluation computes them.

A caption is a string of words with blanks between them. Published numbers are of captions that `ptb.tokenise` has been
over, candidates and references alike.

All is on the scale of the COCO code (pycocoevalcap): BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10, because it is
ten times a mean of cosines. Papers print each of them times 100, so "BLEU-4 36.5, CIDEr 120.1" is 0.365 and 1.201 here.

Where nothing agrees the score is 0, also that of an empty candidate. The COCO code adds 1e-15 to the n-grams that
agree and 1e-9 to those there are, so it gives captions of three words up to 0.03 of BLEU-4; and an empty candidate that
meets an empty reference has all of ROUGE-L there.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 4  # words in an n-gram
SIGMA = 6.0  # words of difference in length at which CIDEr-D keeps exp(-1/2)
BETA = 1.2  # how much more recall counts in ROUGE-L than precision
NAMES = (*(f"bleu_{n}" for n in range(1, LONGEST + 1)), "rouge_l", "cider")

Ngram = tuple[str, ...]


class Counts(NamedTuple):
    """What BLEU is made of: counts of each picture [pictures, ...], or their sums over a set [...]."""

    correct: np.ndarray  # [..., LONGEST]: n-grams of the candidate that a reference has, each as often as it has it
    given: np.ndarray  # [..., LONGEST]: n-grams of the candidate
    words: np.ndarray  # [...]: length of the candidate
    reference_words: np.ndarray  # [...]: length of the reference that is closest to it, the shorter of two


def scores(candidates: Sequence[str], references: Sequence[Sequence[str]], samples: int, seed: int) -> dict[str, float]:
    """Return `bleu_1` to `bleu_4`, `rouge_l` and `cider` of one candidate a picture, each with its 95 % interval.

    `<name>_low` and `_high` are percentiles over `samples` draws of as many pictures with replacement, each with its
    candidate and all its references. BLEU is computed anew from the drawn counts; in CIDEr the document frequencies
    stay those of the whole set, since repeated pictures would pass for common phrases. Same seed, same interval.

    Raises ValueError without a sample or a picture, on a picture without a reference, and on lengths that disagree.
    """
    if samples < 1:
        raise ValueError(f"scores: expected at least one sample of the bootstrap, got {samples}")
    found = counts(candidates, references)
    means = np.stack([rouge_l(candidates, references), cider(candidates, references)], axis=-1)

    def values(pictures: np.ndarray) -> np.ndarray:
        total = Counts(*(field[pictures].sum(axis=0) for field in found))
        return np.concatenate([bleu(total), means[pictures].mean(axis=0)])

    generator, everything = np.random.default_rng(seed), np.arange(len(candidates))
    drawn = [values(generator.integers(len(candidates), size=len(candidates))) for _ in range(samples)]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    rows = {"": values(everything), "_low": low, "_high": high}
    return {f"{name}{end}": float(row[i]) for i, name in enumerate(NAMES) for end, row in rows.items()}


def bleu(total: Counts) -> np.ndarray:
    """Return BLEU-1 to BLEU-4 [..., LONGEST] of summed counts (Papineni et al. 2002).

    `BLEU-n = min(1, exp(1 - r/c)) (p_1 ... p_n)^(1/n)`, p_k the share of the k-grams that are correct, c the words of
    the candidates, r those of the closest references. It is no mean over pictures: sum the counts first.
    """
    precision = total.correct / np.maximum(total.given, 1)
    brevity = np.exp(np.minimum(0.0, 1.0 - total.reference_words / np.maximum(total.words, 1)))
    return brevity[..., None] * np.cumprod(precision, axis=-1) ** (1.0 / np.arange(1, LONGEST + 1))


def counts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Counts:
    """Count for each picture what BLEU needs. Raises ValueError as `scores` does."""
    _check(candidates, references)
    correct, given = np.zeros((2, len(candidates), LONGEST), np.int64)
    words, reference_words = np.zeros((2, len(candidates)), np.int64)
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        most: Counter[Ngram] = Counter()
        for other in others:
            most |= _ngrams(other)
        for ngram, count in _ngrams(candidate).items():
            given[row, len(ngram) - 1] += count
            correct[row, len(ngram) - 1] += min(count, most[ngram])
        length = words[row] = len(candidate.split())
        reference_words[row] = min((len(other.split()) for other in others), key=lambda n: (abs(n - length), n))
    return Counts(correct, given, words, reference_words)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return ROUGE-L [pictures] (Lin 2004), of which a set's score is the mean.

    `F = (1 + BETA^2) P R / (R + BETA^2 P)`, with l the length of the longest common subsequence of words: P the highest
    l / candidate words and R the highest l / reference words of all references, not of the same one necessarily.
    Raises ValueError as `scores` does.
    """
    _check(candidates, references)
    found = np.zeros(len(candidates))
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split()
        common = [(_common_subsequence(words, other.split()), len(other.split())) for other in others]
        precision = max(length for length, _ in common) / max(len(words), 1)
        recall = max(length / max(size, 1) for length, size in common)
        if precision:
            found[row] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return found


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return CIDEr-D [pictures] (Vedantam et al. 2015), 0 to 10, of which a set's score is the mean.

    `10 mean_{n, references} sum_g min(c_g, r_g) r_g / (|c| |r|) exp(-(words_c - words_r)^2 / (2 SIGMA^2))` with g over
    the n-grams of one length n = 1 to 4, and c_g, r_g how often candidate and reference have g, times
    `log(pictures / pictures with g in a reference)`.

    A phrase that all pictures have weighs nothing, so the score belongs to the set: it is 0 for a single picture, and
    those of different sets do not compare. Raises ValueError as `scores` does.
    """
    _check(candidates, references)
    counted = [[_ngrams(other) for other in others] for others in references]
    pictures_with = Counter(ngram for others in counted for ngram in set().union(*others))

    def weigh(ngrams: Counter[Ngram]) -> tuple[dict[Ngram, float], np.ndarray]:
        rarity = {ngram: math.log(len(candidates) / max(pictures_with[ngram], 1)) for ngram in ngrams}
        weights, squares = {ngram: count * rarity[ngram] for ngram, count in ngrams.items()}, np.zeros(LONGEST)
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, np.sqrt(squares)

    found = np.zeros(len(candidates))
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        c, c_norm = weigh(_ngrams(candidate))
        for other, ngrams in zip(others, counted[row], strict=True):
            r, r_norm = weigh(ngrams)
            cosine, norms = np.zeros(LONGEST), c_norm * r_norm
            for ngram in c.keys() & r.keys():
                cosine[len(ngram) - 1] += min(c[ngram], r[ngram]) * r[ngram]
            cosine = np.divide(cosine, norms, out=np.zeros(LONGEST), where=norms > 0)
            difference = len(candidate.split()) - len(other.split())
            found[row] += cosine.mean() * math.exp(-(difference**2) / (2 * SIGMA**2))
        found[row] *= 10.0 / len(others)
    return found


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(candidates) != len(references) or not len(candidates):
        raise ValueError(
            f"caption scores: expected one candidate for each of at least one picture, got {len(candidates)} "
            f"candidates and the references of {len(references)} pictures"
        )
    for picture, others in enumerate(references):
        if isinstance(others, str) or not len(others):
            raise ValueError(f"caption scores: expected a list of references for picture {picture}, got {others!r}")


def _ngrams(caption: str) -> Counter[Ngram]:
    words = caption.split()
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, keeping one row of the table."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for i, other in enumerate(b):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return row[-1]
