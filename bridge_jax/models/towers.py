"""Look up a tower by its name, and normalise the pixels for an image tower."""

import importlib
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Float, UInt8

from bridge_jax.config import Config, ConfigError
from bridge_jax.types import Array


def tower_class(side: Literal["vision", "text"], module: str) -> Any:
    """Return the tower of a side in bridge_jax/models/<module>.py: its `Tower`, else `VisionTower` or `TextTower`.

    Raises ConfigError for an unknown tower, and for a `Tower` of the other side.
    """
    name = f"{side.capitalize()}Tower"
    try:
        imported = importlib.import_module(f"bridge_jax.models.{module}")
        tower = imported.Tower if hasattr(imported, "Tower") else getattr(imported, name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"config.{side}.tower: {module!r} is unknown: no Tower or {name} in bridge_jax/models/{module}.py"
        ) from error
    if tower.side != side:
        raise ConfigError(f"config.{side}.tower: {module!r} is no {side} tower; its Tower is for config.{tower.side}")
    return tower


def normalise(images: UInt8[Array, "B H W 3"], cfg: Config) -> Float[Array, "B H W 3"]:
    """Scale bytes to 0..1, then normalise with the image tower's own mean and standard deviation."""
    mean, std = (jnp.asarray(value).reshape(1, 1, 1, 3) for value in (cfg.vision.mean, cfg.vision.std))
    return (images.astype(jnp.float32) / 255.0 - mean) / std
