"""The heads: four projections, the match head, and the heads of single losses (masked, sigmoid, token, classifier)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bridge_jax.config import Bridge, Config, objectives
from bridge_jax.models import layers
from bridge_jax.types import Array, Fused


class Projection(nn.Module):
    """Project pooled states linearly to the embedding and scale it to length one, in float32."""

    embed_width: int

    @nn.compact
    def __call__(self, pooled_BD: Float[Array, "B D"]) -> Float[Array, "B E"]:
        # Small initial weights, because their noise stays in the cosines. Linear heads on frozen towers, Flickr8k, 400
        # steps: rsum 139 from 0.02, 130 from weights scaled by the number of inputs.
        linear = layers.dense(self.embed_width, jnp.float32, "linear", layers.small_init)
        return layers.l2_normalise(linear(pooled_BD))


class MatchHead(nn.Module):
    """Score a fused pair: scale x (<p_t, p_v> - threshold) plus an MLP on [p_t ; p_v ; <p_t, p_v>].

    The MLP's last layer starts at zero, so the cosine determines the first ranking (docs/method.md 5.13); the
    authors' head starts from noise. The threshold changes no ranking. Without it, the logit of every pair, true or
    not, starts near scale x cosine, about +14 on photos, and the gradient of the binary loss lowers all cosines: in 50
    steps on Flickr8k the unimodal text-to-image R@1 fell from 11.2 to 8.9.
    """

    cfg: Bridge

    @nn.compact
    def __call__(self, text_BE: Float[Array, "B E"], image_BE: Float[Array, "B E"]) -> Float[Array, "B"]:
        cosine_B = (text_BE * image_BE).sum(axis=-1)
        scale = self.param("scale", nn.initializers.constant(self.cfg.logit_scale_start), ())
        threshold = self.param("threshold", nn.initializers.constant(self.cfg.match_threshold_start), ())
        joined = jnp.concatenate([text_BE, image_BE, cosine_B[:, None]], axis=-1)
        hidden = nn.relu(layers.dense(self.cfg.embed_width, jnp.float32, "hidden")(joined))
        return (
            scale * (cosine_B - threshold)
            + layers.dense(1, jnp.float32, "out", nn.initializers.zeros_init())(hidden)[:, 0]
        )


class LogitBias(nn.Module):
    """The bias that the sigmoid loss adds to every logit. It starts at -10: nearly all pairs of a batch are wrong."""

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("bias", nn.initializers.constant(-10.0), ())


class TokenMatch(nn.Module):
    """Turn the token similarity into a logit: scale x (similarity - threshold). Both start as in `MatchHead`."""

    cfg: Bridge

    def setup(self):
        start, threshold = np.log(self.cfg.logit_scale_start), self.cfg.match_threshold_start
        self.log_scale = self.param("log_scale", nn.initializers.constant(start), ())
        self.threshold = self.param("threshold", nn.initializers.constant(threshold), ())

    def __call__(self, similarity: Float[Array, "*B"]) -> Float[Array, "*B"]:
        return self.scaled(similarity) - self.scaled(self.threshold)

    def scaled(self, similarity: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Return scale x similarity. A softmax ignores the threshold, whose gradient would be rounding noise."""
        return clamped_scale(self.log_scale, self.cfg) * similarity


class MaskedHead(nn.Module):
    """Predict masked tokens: D -> D, LayerNorm, GELU -> target. The prediction is float32, for the loss."""

    target_width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, states: Float[Array, "B L D"]) -> Float[Array, "B L X"]:
        y = layers.dense(states.shape[-1], self.dtype, "hidden")(states)
        y = layers.gelu(layers.layer_norm(1e-5, self.dtype, "norm")(y))
        return layers.dense(self.target_width, self.dtype, "out")(y).astype(jnp.float32)


class Classifier(nn.Module):
    """Two hidden layers of width S, each with LayerNorm, GELU and dropout 0.1, then one float32 logit per class.

    The input holds the mean fused state of each side, as it leaves the tower. An embedding, of length one and only as
    wide as a cosine needs, holds less. For several pictures the inputs are concatenated.
    """

    classes: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled_BD: Float[Array, "B D"], deterministic: bool) -> Float[Array, "B X"]:
        y = pooled_BD
        for layer in range(2):
            y = layers.dense(self.hidden, self.dtype, f"hidden_{layer}")(y)
            y = layers.gelu(layers.layer_norm(1e-5, self.dtype, f"norm_{layer}")(y))
            y = layers.Dropout(0.1)(y, deterministic=deterministic)
        return layers.dense(self.classes, jnp.float32, "out")(y)


class Heads(nn.Module):
    """The heads of every model, and, in `by_loss`, the heads that the losses of the config bring: loss -> head."""

    cfg: Config

    def setup(self):
        bridge = self.cfg.bridge
        E = bridge.embed_width
        self.unimodal_image, self.unimodal_text = Projection(E), Projection(E)
        self.fused_image, self.fused_text = Projection(E), Projection(E)
        self.itm = MatchHead(bridge)
        heads = {name: objectives.needs(name).head for name in self.cfg.losses}
        self.by_loss = {name: head(self.cfg, name) for name, head in heads.items() if head}
        self.log_scale = self.param("log_scale", nn.initializers.constant(np.log(bridge.logit_scale_start)), ())

    def logit_scale(self) -> jax.Array:
        """Return the contrastive scale, clamped at the maximum."""
        return clamped_scale(self.log_scale, self.cfg.bridge)


def clamped_scale(log_scale: Array, cfg: Bridge) -> jax.Array:
    """Return exp(log_scale), clamped at the maximum; above it the gradient is zero."""
    return jnp.exp(jnp.minimum(log_scale, np.log(cfg.logit_scale_max)))


def double_scale(log_scale: Array, cfg: Bridge) -> float:
    """Return the clamped scale in double precision. Float32 would round it, and every reranked score with it."""
    with jax.enable_x64(True):
        return float(clamped_scale(jnp.float64(log_scale), cfg))


def pooled(fused: Fused, mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Average the finished states of each side of every pair, and concatenate the two means: text, image."""
    parts = (layers.masked_mean(fused.text_states, mask), layers.masked_mean(fused.image_states, None))
    return jnp.concatenate(parts, axis=-1)


def features(fused: Fused, mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Return the input of a statement classifier for each pair.

    It concatenates both sides' mean states (`pooled`) and the element-wise product of the fused embeddings (ViLBERT's),
    scaled to entries near one. The product marks what a statement and a picture share; the classifier alone would have
    to learn to multiply.
    """
    product = fused.text.shape[-1] * fused.text * fused.image
    states = pooled(fused, mask)
    return jnp.concatenate([states, product.astype(states.dtype)], axis=-1)
