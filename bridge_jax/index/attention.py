"""Where the words of a text look on a photo: the bridge's attention of text over image."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from bridge_jax.index.model import Model
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Lower


def of_words(model: Model, caption: str, lower: np.ndarray) -> list[dict[str, Any]]:
    """Return each word of a text with its attention over the patches of a photo, row by row; the largest is 1.

    `lower` [P,D] are the photo's lower states. The mean over layers, heads and the tokens of the word, less its least
    value. Empty where the bridge has no attention. Raises ConfigError for a text that cannot be used.
    """
    query = model.text(caption)
    image = np.asarray(lower[None], jnp.dtype(model.cfg.compute_dtype))
    layers_TP = np.asarray(
        model.predict.jit(_text_over_image)(model.params, Lower(image, query.lower[None], query.mask[None]))
    )
    if not layers_TP.size:
        return []
    side = model.cfg.vision.image_px // model.cfg.vision.patch_px
    patches_TP = layers_TP[:, -side * side :]  # the class token and registers come first
    words = []
    for word, places in model.tokenizer.words(caption):
        weights = patches_TP[places].mean(axis=0) if places else np.zeros(side * side)
        weights = weights - weights.min()
        weights = weights / (weights.max() or 1)
        words.append({"text": word, "side": side, "weights": np.round(weights, 3).tolist()})
    return words


def _text_over_image(model: BridgeModel, lower: Lower) -> Array:
    """Return the attention of the only pair, [T,P], averaged over the layers; [0] where there is none."""
    layers = [weights for weights in model.fused(lower).text_over_image if weights is not None]
    return jnp.stack(layers).mean(axis=0)[0] if layers else jnp.zeros(0)
