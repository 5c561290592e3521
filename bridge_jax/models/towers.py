"""The towers by their names, and the pixels that an image tower sees."""

import importlib
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from bridge_jax.config import Config, ConfigError


def tower_class(side: Literal["vision", "text"], module: str) -> Any:
    """Return the tower in bridge_jax/models/<module>.py: its `Tower`, or of two its `VisionTower` or `TextTower`.

    Raises ConfigError for an unknown one, and for an image tower where a text tower is wanted.
    """
    name = f"{side.capitalize()}Tower"
    try:
        found = importlib.import_module(f"bridge_jax.models.{module}")
        tower = found.Tower if hasattr(found, "Tower") else getattr(found, name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"config.{side}.tower: {module!r} is unknown: no Tower or {name} in bridge_jax/models/{module}.py"
        ) from error
    if tower.side != side:
        raise ConfigError(f"config.{side}.tower: {module!r} is no {side} tower; its Tower is for config.{tower.side}")
    return tower


def normalise(images: UInt8[Array, "B H W 3"], cfg: Config) -> Float[Array, "B H W 3"]:
    """Scale bytes to 0..1 and apply the image tower's own mean and standard deviation."""
    mean, std = jnp.asarray(cfg.vision.mean), jnp.asarray(cfg.vision.std)
    return (images.astype(jnp.float32) / 255.0 - mean) / std
