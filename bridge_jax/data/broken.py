"""Replace records that cannot be used while training, by others that depend on seed and position alone.

    make(index, generator) -> example         raises BrokenError for a record that cannot be used
    Replacing(make, count)(index, generator)  draws another index from the same generator until one can be used

Whether a record can be used depends on its bytes alone, and the generator on the seed and the position, so the
replacement is the same after every restart and on every host. Every example names the record that it replaces.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import ConfigError

REFUSED = "refused_caption"  # key in the result of `make`: the caption that was drawn first and cannot be used
_TRIES = 100


class BrokenError(ConfigError):
    """A record cannot be used; the text says why. `caption` is the number of the caption at fault; -1: the rest."""

    def __init__(self, text: str, caption: int = -1):
        super().__init__(text)
        self.caption = caption


class Replacing:
    """Make the example of a record, or of another record where it is broken.

    Adds `broken`, int32 [2]: the record that was drawn and cannot be used, and the caption in it that is at fault (-1:
    the picture, or all of it); (-1, -1) where the record can be used. Broken replacements are not reported here,
    because every record is drawn for itself once an epoch.
    """

    def __init__(self, make: Callable[[int, np.random.Generator], Mapping[str, Any]], count: int):
        self._make, self._count = make, count

    def __call__(self, index: int, generator: np.random.Generator) -> dict[str, Any]:
        """Return the example. Raises ConfigError where record after record is broken."""
        broken = None
        for _ in range(_TRIES):
            try:
                example = dict(self._make(index, generator))
            except BrokenError as error:
                last, broken = error, broken or (index, error.caption)
                index = int(generator.integers(self._count))
                continue
            refused = example.pop(REFUSED, -1)
            if broken is None:
                broken = (index, refused) if refused >= 0 else (-1, -1)
            return example | {"broken": np.array(broken, np.int32)}
        raise ConfigError(f"config.data: {_TRIES} records drawn at random are all broken, the last: {last}")


def draw_caption(
    captions: Sequence[int],
    fault: Callable[[int], str],
    generator: np.random.Generator,
    weights: np.ndarray | None = None,
) -> tuple[int, int]:
    """Return a random one of `captions` without a fault, and the faulty one that was drawn before it (-1: none).

    `weights`: how likely each is drawn; None: all alike. Raises BrokenError where all have a fault.
    """
    first = int(generator.choice(captions, p=weights))
    if not (reason := fault(first)):
        return first, -1
    good = [caption for caption in captions if not fault(caption)]
    if not good:
        raise BrokenError(reason, first)
    return int(generator.choice(good)), first
