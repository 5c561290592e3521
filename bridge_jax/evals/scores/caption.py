"""Score captions in plain NumPy: BLEU-1 to 4, ROUGE-L and CIDEr-D, as the COCO caption evaluation computes them.

A caption is a string of words with blanks between them. For numbers that compare with published ones, `ptb.tokenise`
goes over candidates and references first.

Scores are on the scale of the COCO code (pycocoevalcap): BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10, because it
is ten times a mean of cosines. Papers print each of them times 100, so "BLEU-4 36.5, CIDEr 120.1" is 0.365 and 1.201
here.

The score is 0 where nothing agrees, and for an empty candidate. The COCO code adds 1e-15 to the number of n-grams that
agree and 1e-9 to the number of n-grams, so it gives captions of three words up to 0.03 of BLEU-4; and it gives an empty
candidate with an empty reference the full ROUGE-L.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 4  # words in an n-gram
SIGMA = 6.0  # words of difference in length at which CIDEr-D keeps exp(-1/2)
BETA = 1.2  # weight of recall over precision in ROUGE-L
NAMES = (*(f"bleu_{n}" for n in range(1, LONGEST + 1)), "rouge_l", "cider")

Ngram = tuple[str, ...]


class Counts(NamedTuple):
    """The counts behind BLEU: those of each picture [pictures, ...], or their sums over a set [...]."""

    correct: np.ndarray  # [..., LONGEST]: n-grams of the candidate that a reference has, each at most as often as there
    ngrams: np.ndarray  # [..., LONGEST]: n-grams of the candidate
    words: np.ndarray  # [...]: length of the candidate
    reference_words: np.ndarray  # [...]: length of the reference closest to it in length; the shorter of two


def scores(candidates: Sequence[str], references: Sequence[Sequence[str]], samples: int, seed: int) -> dict[str, float]:
    """Return `bleu_1` to `bleu_4`, `rouge_l` and `cider` of one candidate a picture, each with its 95 % interval.

    `<name>_low` and `_high` are percentiles over `samples` draws of as many pictures with replacement, each with its
    candidate and all its references. BLEU is computed again from the drawn counts. CIDEr keeps the document frequencies
    of the whole set, because repeated pictures would make their phrases look common. Same seed, same interval.

    Raises ValueError without a sample or a picture, on a picture without a reference, and on lengths that disagree.
    """
    if samples < 1:
        raise ValueError(f"scores: expected at least one sample of the bootstrap, got {samples}")
    per_picture = counts(candidates, references)
    means = np.stack([rouge_l(candidates, references), cider(candidates, references)], axis=-1)

    def values(pictures: np.ndarray) -> np.ndarray:
        total = Counts(*(field[pictures].sum(axis=0) for field in per_picture))
        return np.concatenate([bleu(total), means[pictures].mean(axis=0)])

    generator, everything = np.random.default_rng(seed), np.arange(len(candidates))
    drawn = [values(generator.integers(len(candidates), size=len(candidates))) for _ in range(samples)]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    rows = {"": values(everything), "_low": low, "_high": high}
    return {f"{name}{end}": float(row[i]) for i, name in enumerate(NAMES) for end, row in rows.items()}


def bleu(total: Counts) -> np.ndarray:
    """Return BLEU-1 to BLEU-4 [..., LONGEST] of summed counts (Papineni et al. 2002).

    `BLEU-n = min(1, exp(1 - r/c)) (p_1 ... p_n)^(1/n)`, with p_k the share of k-grams that are correct, c the number of
    words of the candidates and r that of the closest references. It is not a mean over pictures: sum the counts first.
    """
    precision = total.correct / np.maximum(total.ngrams, 1)
    brevity = np.exp(np.minimum(0.0, 1.0 - total.reference_words / np.maximum(total.words, 1)))
    return brevity[..., None] * np.cumprod(precision, axis=-1) ** (1.0 / np.arange(1, LONGEST + 1))


def counts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Counts:
    """Return the counts that BLEU needs, for each picture. Raises ValueError as `scores` does."""
    _check(candidates, references)
    correct, ngrams = np.zeros((2, len(candidates), LONGEST), np.int64)
    words, reference_words = np.zeros((2, len(candidates)), np.int64)
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        most: Counter[Ngram] = Counter()
        for other in others:
            most |= _ngrams(other)
        for ngram, count in _ngrams(candidate).items():
            ngrams[row, len(ngram) - 1] += count
            correct[row, len(ngram) - 1] += min(count, most[ngram])
        length = words[row] = len(candidate.split())
        reference_words[row] = min((len(other.split()) for other in others), key=lambda n: (abs(n - length), n))
    return Counts(correct, ngrams, words, reference_words)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return ROUGE-L [pictures] (Lin 2004); the score of a set is their mean.

    `F = (1 + BETA^2) P R / (R + BETA^2 P)`, with l the length of the longest common subsequence of words: P is the
    highest l / candidate words and R the highest l / reference words, each over all references, not necessarily the
    same one.
    Raises ValueError as `scores` does.
    """
    _check(candidates, references)
    f_scores = np.zeros(len(candidates))
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split()
        common = [(_common_subsequence(words, other.split()), len(other.split())) for other in others]
        precision = max(length for length, _ in common) / max(len(words), 1)
        recall = max(length / max(size, 1) for length, size in common)
        if precision:
            f_scores[row] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return f_scores


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return CIDEr-D [pictures] (Vedantam et al. 2015), 0 to 10; the score of a set is their mean.

    `10 mean_{n, references} sum_g min(c_g, r_g) r_g / (|c| |r|) exp(-(words_c - words_r)^2 / (2 SIGMA^2))` with g over
    the n-grams of one length n = 1 to 4, and c_g, r_g the number of g in candidate and reference times
    `log(pictures / pictures with g in a reference)`.

    A phrase that all pictures have weighs nothing, so the score depends on the set: it is 0 for a single picture, and
    scores of different sets do not compare. Raises ValueError as `scores` does.
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

    values = np.zeros(len(candidates))
    for row, (candidate, others) in enumerate(zip(candidates, references, strict=True)):
        c, c_norm = weigh(_ngrams(candidate))
        for other, ngrams in zip(others, counted[row], strict=True):
            r, r_norm = weigh(ngrams)
            cosine, norms = np.zeros(LONGEST), c_norm * r_norm
            for ngram in c.keys() & r.keys():
                cosine[len(ngram) - 1] += min(c[ngram], r[ngram]) * r[ngram]
            cosine = np.divide(cosine, norms, out=np.zeros(LONGEST), where=norms > 0)
            difference = len(candidate.split()) - len(other.split())
            values[row] += cosine.mean() * math.exp(-(difference**2) / (2 * SIGMA**2))
        values[row] *= 10.0 / len(others)
    return values


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
    """Return the length of the longest common subsequence; only one row of the table is kept."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for i, other in enumerate(b):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return row[-1]
