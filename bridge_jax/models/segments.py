"""The bridged segments of both towers: an interaction layer and the blocks up to the next one.

Segments of equal make run as one compiled program where `config.blocks.scan` asks for it; the parameters are stored
segment by segment whatever it says.
"""

import dataclasses
import itertools
from typing import Any

import jax

from bridge_jax.config import Blocks
from bridge_jax.models import layers

States = tuple[jax.Array, jax.Array]  # of the image tower, of the text tower


def blocks_after(model: Any, q: int) -> tuple[int, int]:
    """Return how many image and text blocks follow interaction layer q before the next, or before the end."""
    image_stops = (*model.image_after[1:], model.cfg.vision.depth - 1)
    text_stops = (*model.text_after[1:], model.cfg.text.depth - 1)
    return image_stops[q] - model.image_after[q], text_stops[q] - model.text_after[q]


def runs(model: Any) -> list[tuple[int, ...]]:
    """Return the interaction layers in runs of neighbours whose segments differ in their parameters alone.

    Such segments have the same number of blocks, and begin at the same place of a text tower's `period`.
    """

    def make(q: int) -> tuple[int, int, int]:
        images, texts = blocks_after(model, q)
        return images, texts, (model.text_after[q] + 1) % model.text.period if texts else 0

    return [tuple(equal) for _, equal in itertools.groupby(range(len(model.bridge.layers)), make)]


def run(
    model: Any, equal: tuple[int, ...], states: States, mask: jax.Array, deterministic: bool
) -> tuple[States, list[Any]]:
    """Run segments of equal make, each as the first of them with its own parameters (`layers.run_equal`).

    Returns the states, and the attention of every segment.
    """
    if model.is_initializing():
        attention = []
        for q in equal:
            states, weights = model.segment(q, states, mask, deterministic)
            attention.append(weights)
        return states, attention
    how, first = model.cfg.blocks, equal[0]
    plain = type(model)(dataclasses.replace(model.cfg, blocks=Blocks(scan=False, remat="none")), parent=None)
    params = model.variables["params"]
    images, texts = blocks_after(model, first)

    def run_one(states: Any, segment: tuple[Any, Any]) -> Any:
        own, rngs = segment
        merged = {**params, **{tower: {**params[tower], **own[tower]} for tower in own}}
        return plain.apply({"params": merged}, first, states, mask, deterministic, method="segment", rngs=rngs)

    given = []
    for q in equal:
        own = {"bridge": {f"layer_{first}": params["bridge"][f"layer_{q}"]}}
        for tower, after, count in (("vision", model.image_after, images), ("text", model.text_after, texts)):
            own[tower] = {
                f"block_{after[first] + 1 + i:02d}": params[tower][f"block_{after[q] + 1 + i:02d}"]
                for i in range(count)
            }
        given.append((own, layers.dropout_key(model.bridge.layers[q], deterministic)))
    return layers.run_equal(how, run_one, states, given)
