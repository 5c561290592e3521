"""Choose the queries of a split that say most about two orders: helped most, hurt most, wrong in both or in one."""

import numpy as np
from jaxtyping import Int


def helped(before: Int[np.ndarray, "n"], after: Int[np.ndarray, "n"], groups: np.ndarray, count: int) -> list[int]:
    """Return the queries whose reciprocal rank rose most, of `before` and `after` (best rank is 1).

    At most `count`, one of each group (the photo of a query); of equal ones the first. Fewer where fewer rose.
    """
    return _most(1 / after - 1 / before, groups, count)


def hurt(before: Int[np.ndarray, "n"], after: Int[np.ndarray, "n"], groups: np.ndarray, count: int) -> list[int]:
    """Return the queries whose reciprocal rank fell most; see `helped`."""
    return _most(1 / before - 1 / after, groups, count)


def both_wrong(before: Int[np.ndarray, "n"], after: Int[np.ndarray, "n"], groups: np.ndarray, count: int) -> list[int]:
    """Return the queries that neither order answers, those with the worst of the better rank first; see `helped`."""
    return _most(np.minimum(before, after) - 1, groups, count)


def found_by_one(mine: Int[np.ndarray, "n"], other: Int[np.ndarray, "n"], groups: np.ndarray, count: int) -> list[int]:
    """Return the queries of rank 1 in `mine` alone, those with the worst rank in `other` first; see `helped`."""
    return _most(np.where(mine == 1, other - 1, 0), groups, count)


def _most(score: np.ndarray, groups: np.ndarray, count: int) -> list[int]:
    """Return the rows of the highest positive scores, one of each group."""
    found: dict[int, int] = {}
    for row in np.argsort(-score, kind="stable"):
        if score[row] > 0 and len(found) < count:
            found.setdefault(int(groups[row]), int(row))
    return list(found.values())
