"""Flat parameters: path -> array, a path such as `vision/block_07/attention/query/kernel`.

Parameters travel flat where gradients and optimizer state exist for the trainable ones alone, and where rules, names
and checkpoints speak of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax

from bridge_jax.types import Params

Flat = dict[str, Any]


def flatten(params: Params) -> Flat:
    """Return path -> array."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Return the nested parameters of path -> array."""
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")


def split(params: Params, trainable: Iterable[str]) -> tuple[Flat, Flat]:
    """Return the trainable and the frozen parameters, flat."""
    flat, names = flatten(params), set(trainable)
    return {k: v for k, v in flat.items() if k in names}, {k: v for k, v in flat.items() if k not in names}


def every(tree: Any) -> list[str]:
    """Return the path of every leaf, in tree order."""
    return [path_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def path_of(keys: tuple) -> str:
    """Return a tree path as `a/b/c`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)
