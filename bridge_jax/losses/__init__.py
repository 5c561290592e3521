"""One file per objective; file name = config key = metric prefix.

A loss module defines `PASSES`, the forward passes it needs, and `loss(outputs, batch, **keywords) -> Loss`. One whose
only pass is `unimodal` compares the embeddings of all rows of the batch; every other is a mean over rows.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bridge_jax.config import ConfigError, nearest
from bridge_jax.types import Loss


def bind(name: str, arguments: Mapping[str, Any]) -> tuple[Callable[..., Loss], tuple[str, ...]]:
    """Return the loss with its keyword arguments bound, and its passes. Raises ConfigError on a name or key unknown."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise ConfigError(f"config.losses.{name} is unknown; {nearest(name, known)}")
    module = importlib.import_module(f"{__name__}.{name}")
    keywords = {k: v for k, v in arguments.items() if k != "weight"}
    accepted = set(inspect.signature(module.loss).parameters) - {"outputs", "batch"}
    for keyword in keywords:
        if keyword not in accepted:
            raise ConfigError(f"config.losses.{name}.{keyword} is not a key; {nearest(keyword, accepted | {'weight'})}")
    for keyword in accepted:
        if keyword not in keywords:
            raise ConfigError(f"config.losses.{name}.{keyword} is missing")
    return partial(module.loss, **keywords), module.PASSES
