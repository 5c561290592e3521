"""Masked image modelling: predict the masked patches from the other patches and the whole caption."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bridge_jax.config import Config, ConfigError, require
from bridge_jax.config.objectives import Fields, Inputs, MakeFields, Needs, Row
from bridge_jax.data import masking
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import MaskedHead
from bridge_jax.models.towers import normalise
from bridge_jax.types import Array, Batch, Fused, Loss, Outputs

TARGETS = ("pixels", "features")


class Predicted(NamedTuple):
    """The prediction of every patch, and its target."""

    prediction: Array  # [B,P-1,X]
    target: Array  # [B,P-1,X]


def loss(outputs: Outputs, batch: Batch, *, target: str, mask_fraction: float) -> Loss:
    """Return the mean squared error at the masked patches.

    `mask_fraction`: share of a picture's patches that are masked, 0 to 1; the data path masks them (`maker`).
    `target` is one of
    pixels: the patch's own pixels, each patch normalised to mean 0 and variance 1 (as MAE does).
    features: the finished state of the unmasked picture, without gradient, each normalised the same way.
    """
    del mask_fraction
    if target not in TARGETS:
        raise ConfigError(f"config.losses.mim.target: {target!r} is unknown; known: {', '.join(TARGETS)}")
    predicted: Predicted = outputs.own["mim"]
    masked_BP = batch.extras["masked_patches"]
    target_BPX = predicted.target.astype(jnp.float32)
    centred_BPX = target_BPX - target_BPX.mean(axis=-1, keepdims=True)
    target_BPX = centred_BPX / (target_BPX.std(axis=-1, keepdims=True) + 1e-3)
    errors_BP = jnp.square(predicted.prediction - target_BPX).mean(axis=-1)
    return Loss(sum=(errors_BP * masked_BP).sum(), count=masked_BP.sum().astype(jnp.float32))


def width(cfg: Config) -> int:
    """Return the width X of a target: a patch's pixels, or the tower's finished state."""
    return cfg.vision.width if cfg.losses["mim"]["target"] == "features" else 3 * cfg.vision.patch_px**2


def predict(model: BridgeModel, fused: Fused) -> Float[Array, "B n X"]:
    """Return the head's prediction of every patch."""
    return model.heads.by_loss["mim"](fused.image_states[:, model.vision.prefix :])


def masked_image(model: BridgeModel, inputs: Inputs) -> Predicted:
    """Fuse the masked picture with its whole caption; return the predictions and their targets."""
    batch = inputs.batch
    masked = model.lower_image(batch.images, batch.extras["masked_patches"], deterministic=inputs.lower_frozen)
    lower = dataclasses.replace(inputs.lower, image=masked)
    prediction = predict(model, model.fused(lower, deterministic=inputs.deterministic))
    if model.cfg.losses["mim"]["target"] == "features":
        finished = jax.lax.stop_gradient(model.finish_image(inputs.lower.image))
        return Predicted(prediction, finished[:, model.vision.prefix :])
    return Predicted(prediction, patches(normalise(batch.images, model.cfg), model.cfg.vision.patch_px))


def patches(pixels: Float[Array, "B H W 3"], side: int) -> Float[Array, "B n X"]:
    """Cut pictures into square patches, row by row, each flattened as (row, column, channel)."""
    B, H, W, channels = pixels.shape
    grid = pixels.reshape(B, H // side, side, W // side, side, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(B, (H // side) * (W // side), side * side * channels)


def _patch_count(cfg: Config) -> int:
    return (cfg.vision.image_px // cfg.vision.patch_px) ** 2


def shapes(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shape of `masked_patches`: True for the patches to predict, class token left out."""
    return {"masked_patches": jax.ShapeDtypeStruct((_patch_count(cfg),), np.bool_)}


def _make(count: int, fraction: float, row: Row, generator: np.random.Generator) -> Mapping[str, np.ndarray]:
    del row
    return {"masked_patches": masking.mask_patches(count, fraction, generator)}


def maker(cfg: Config, tokenizer: Any) -> MakeFields:
    del tokenizer
    return partial(_make, _patch_count(cfg), cfg.losses["mim"]["mask_fraction"])


def check(cfg: Config) -> None:
    """Raise ConfigError if a stage uses the loss and the image tower has no mask token."""
    require(
        cfg.vision.mask_token or not any("mim" in stage.losses for stage in cfg.run_stages),
        "config.vision.mask_token is False but the mim loss is in use: set config.vision.mask_token=True",
    )


NEEDS = Needs(
    passes=("masked",),
    head=lambda cfg, name: MaskedHead(width(cfg), jnp.dtype(cfg.compute_dtype), name=name),
    output=masked_image,
    fields=Fields(shapes, maker),
    check=check,
)
