"""Masked image modelling: predict the masked patches from the picture's rest and the whole caption."""

import jax.numpy as jnp

from bridge_jax.config import ConfigError
from bridge_jax.types import Batch, Loss, Outputs

PASSES = ("masked_image",)
TARGETS = ("pixels", "features")


def loss(outputs: Outputs, batch: Batch, target: str) -> Loss:
    """Mean squared error at the masked patches.

    pixels: the patch's own pixels, each patch normalised to mean 0 and variance 1 (as MAE does).
    features: the finished state of the unmasked picture, without gradient, each normalised the same way.
    """
    if target not in TARGETS:
        raise ConfigError(f"config.losses.mim.target: {target!r} is unknown; known: {', '.join(TARGETS)}")
    wanted = outputs.mim_target.astype(jnp.float32)
    wanted = (wanted - wanted.mean(axis=-1, keepdims=True)) / (wanted.std(axis=-1, keepdims=True) + 1e-3)
    errors_BP = jnp.square(outputs.mim_prediction - wanted).mean(axis=-1)
    count = batch.masked_patches.sum().astype(jnp.float32)
    return Loss(sum=(errors_BP * batch.masked_patches).sum(), count=count)
