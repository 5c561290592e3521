"""Metrics of the bridge that every step logs: scale, gates, temperatures, entropies, partners left out."""

import jax
import jax.numpy as jnp

from bridge_jax.types import Array, Batch, Outputs, Params


def bridge_metrics(params: Params, outputs: Outputs, batch: Batch) -> dict[str, Array]:
    """Return the scale, and every layer's gates, temperatures and attention entropy (1: uniform over the keys)."""
    metrics: dict[str, Array] = {"logit_scale": outputs.logit_scale}
    if outputs.left_out is not None:
        metrics["mining/left_out"] = outputs.left_out
    for layer, values in params["bridge"].items() if "bridge" in params else ():
        for side in ("image", "text"):
            metrics[f"gate/{layer}/{side}"] = jax.nn.sigmoid(values[f"{side}_gate"])
        for direction in ("text_over_image", "image_over_text"):
            if "tau" in values[direction]:
                metrics[f"tau/{layer}/{direction}"] = jax.nn.softplus(values[direction]["tau"])
    if outputs.fused is not None:
        pictures = len(outputs.fused.text) // len(batch.text_mask)  # each is fused with the row's text
        text_weight = jnp.repeat(batch.text_mask, pictures, axis=0).astype(jnp.float32)
        for q, (tv, vt) in enumerate(zip(outputs.fused.text_over_image, outputs.fused.image_over_text, strict=True)):
            over_image = entropy(tv) / jnp.log(tv.shape[-1])
            over_text = entropy(vt) / jnp.log(jnp.maximum(text_weight.sum(axis=1), 2))[:, None]
            metrics[f"entropy/layer_{q}/text_over_image"] = (over_image * text_weight).sum() / text_weight.sum()
            metrics[f"entropy/layer_{q}/image_over_text"] = over_text.mean()
    return metrics


def entropy(weights: Array) -> Array:
    """Return the entropy over the last axis, in nats."""
    return -(weights * jnp.log(weights + 1e-9)).sum(axis=-1)
