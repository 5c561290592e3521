"""The segments of the bridged towers: an interaction layer and the blocks of both towers before the next one.

With `config.blocks.scan`, segments of equal structure compile as one program. The parameters are stored segment by
segment with or without it.
"""

import dataclasses
import itertools
from typing import Any

import jax

from bridge_jax.models import stack
from bridge_jax.types import Array

States = tuple[jax.Array, jax.Array]  # of the image tower, of the text tower


def blocks_after(model: Any, q: int) -> tuple[int, int]:
    """Return the numbers of image and of text blocks between interaction layer q and the next, or the tower's end."""
    image_stops = (*model.image_after[1:], model.cfg.vision.depth - 1)
    text_stops = (*model.text_after[1:], model.cfg.text.depth - 1)
    return image_stops[q] - model.image_after[q], text_stops[q] - model.text_after[q]


def equal_groups(model: Any) -> list[tuple[int, ...]]:
    """Return the interaction layers in groups of neighbours whose segments differ only in their parameters.

    Such segments have the same number of blocks and start at the same place of the text tower's `period`.
    """

    def structure(q: int) -> tuple[int, int, int]:
        image_blocks, text_blocks = blocks_after(model, q)
        return image_blocks, text_blocks, (model.text_after[q] + 1) % model.text.period if text_blocks else 0

    return [tuple(group) for _, group in itertools.groupby(range(len(model.bridge.layers)), structure)]


def run_group(
    model: Any, group: tuple[int, ...], states: States, mask: Array, deterministic: bool
) -> tuple[States, list[Any]]:
    """Run a group of `equal_groups`: the code of its first segment, with each segment's own parameters.

    Returns the states and the attention of every segment. `stack.run_equal` scans them or loops over them.
    """
    if model.is_initializing():
        attention = []
        for q in group:
            states, weights = model.segment(q, states, mask, deterministic)
            attention.append(weights)
        return states, attention
    execution, first = model.cfg.blocks, group[0]
    plain = dataclasses.replace(execution, scan=False, remat="none")
    unbound = type(model)(dataclasses.replace(model.cfg, blocks=plain), parent=None)
    params = model.variables["params"]
    image_blocks, text_blocks = blocks_after(model, first)

    def run_segment(states: Any, segment: tuple[Any, Any]) -> Any:
        own, rngs = segment
        merged = {**params, **{part: {**params[part], **own[part]} for part in own}}
        return unbound.apply({"params": merged}, first, states, mask, deterministic, method="segment", rngs=rngs)

    inputs = []
    for q in group:
        own = {"bridge": {f"layer_{first}": params["bridge"][f"layer_{q}"]}}
        for tower, after, count in (
            ("vision", model.image_after, image_blocks),
            ("text", model.text_after, text_blocks),
        ):
            own[tower] = {
                f"block_{after[first] + 1 + i:02d}": params[tower][f"block_{after[q] + 1 + i:02d}"]
                for i in range(count)
            }
        inputs.append((own, stack.dropout_key(model.bridge.layers[q], deterministic)))
    return stack.run_equal(execution, run_segment, states, inputs)
