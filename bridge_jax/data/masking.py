"""Draw the tokens that MLM predicts and the patches that MIM predicts, from the example's own generator."""

import math

import numpy as np
from jaxtyping import Bool, Int32

from bridge_jax.data import text

_TO_MASK, _TO_RANDOM = 0.8, 0.1  # BERT: the rest of the chosen tokens stay as they are
_LEAST_ASPECT = 0.3  # least aspect of a block of patches; the greatest is its inverse
_BLOCK_TRIES = 20


def mask_tokens(
    ids: Int32[np.ndarray, " T"],
    mask: Bool[np.ndarray, " T"],
    tokenizer: text.Tokenizer,
    fraction: float,
    generator: np.random.Generator,
) -> tuple[Int32[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """Return the ids with tokens masked as BERT masks them, and the positions to predict.

    Chooses `fraction` of the words, rounded, and at least one; never a special token, since predicting [UNK] teaches
    nothing. Each chosen word becomes [MASK] with probability 0.8, a random word with 0.1, and stays with 0.1. A caption
    without words has nothing to predict.
    """
    special = np.array(sorted(tokenizer.special_ids))
    words = np.flatnonzero(mask & ~np.isin(ids, special))
    predict = np.zeros(ids.shape, bool)
    masked = ids.copy()
    if words.size == 0:
        return masked, predict
    chosen = generator.choice(words, max(1, round(fraction * words.size)), replace=False)
    predict[chosen] = True
    draw = generator.random(chosen.size)
    masked[chosen[draw < _TO_MASK]] = tokenizer.mask_id
    swapped = chosen[(draw >= _TO_MASK) & (draw < _TO_MASK + _TO_RANDOM)]
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), special)
    masked[swapped] = generator.choice(ordinary, swapped.size)
    return masked, predict


def mask_patches(count: int, fraction: float, generator: np.random.Generator) -> Bool[np.ndarray, " P"]:
    """Return a mask, bool [count], of exactly `fraction` of the patches, for MIM to predict.

    The patches form a square grid in row order, without the class token. They are masked block-wise, as in BEiT (arXiv
    2106.08254, algorithm 1): a lone masked patch can be copied from its neighbours, so at the modest fractions used
    beside contrastive losses only whole missing regions make the model read the caption. Rectangles of log-uniform
    aspect 0.3 to 3.3 are drawn until the number is reached; patches that no rectangle fits are filled one by one.
    Unlike BEiT's, rectangles may hang over the border by half: otherwise a corner of a 14 x 14 grid is masked in 5 % of
    the pictures and the centre in 72 % (at a fraction of 0.4). Raises ValueError where `count` is not a square.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"mask_patches needs a square grid, got {count} patches")
    wanted = round(fraction * count)
    masked = np.zeros((side, side), bool)
    least = max(1, count // 12)
    for _ in range(_BLOCK_TRIES):
        missing = wanted - int(masked.sum())
        if missing == 0:
            break
        area = generator.uniform(min(least, missing), missing)
        aspect = math.exp(generator.uniform(math.log(_LEAST_ASPECT), -math.log(_LEAST_ASPECT)))
        rows, columns = max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))
        if rows > side or columns > side:
            continue
        top = generator.integers(-(rows // 2), side - rows + rows // 2 + 1)
        left = generator.integers(-(columns // 2), side - columns + columns // 2 + 1)
        block = masked[max(0, top) : top + rows, max(0, left) : left + columns]
        if int((~block).sum()) <= missing:
            block[:] = True
    flat = masked.reshape(-1)
    missing = wanted - int(flat.sum())
    flat[generator.choice(np.flatnonzero(~flat), missing, replace=False)] = True
    return flat
