"""The interaction block: where the two towers' hidden states meet (Eq. 1-3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bridge_jax.config import Bridge
from bridge_jax.models import layers
from bridge_jax.models.token_similarity import Compared

NORM_EPS = 1e-5


class CosineAttention(nn.Module):
    """Queries of one side over keys and values of the other, as cosines over a learned temperature.

    logits = <q, k> / (|q| |k| tau) + bias, tau = softplus(raw), one learned position bias shared by the heads, no
    1/sqrt(K). The authors start at tau = 1, where attention over 197 keys is nearly uniform; ours is a setting.

    `frames`, of the queries and of the others: a side of several pictures repeats its positions, a picture's own, in
    every one of them.

    Returns the attended values [B,L,S] and the head-averaged weights [B,L,M] before dropout; with `compare`, what is
    compared and no more.
    """

    heads: int
    tau_start: float
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        query_BLS: Float[Array, "B L S"],
        other_BMS: Float[Array, "B M S"],
        other_mask: Bool[Array, "B M"] | None,
        deterministic: bool,
        frames: tuple[int, int] = (1, 1),
        compare: bool = False,
    ) -> Any:
        (_, L, S), M = query_BLS.shape, other_BMS.shape[1]

        query, key, value = (layers.Projection((S, S), name=name) for name in ("query", "key", "value"))
        (q_BNLK,) = layers.project(query_BLS, self.heads, query)
        k_BNMK, v_BNMK = layers.project(other_BMS, self.heads, key, value)
        q_BNLK, k_BNMK = (layers.l2_normalise(x).astype(self.dtype) for x in (q_BNLK, k_BNMK))
        if compare:
            return Compared(layers.join_heads(q_BNLK), layers.join_heads(k_BNMK) / self.heads)
        tau_raw = float(np.log(np.expm1(self.tau_start)))
        tau = nn.softplus(self.param("tau", nn.initializers.constant(tau_raw), ()))
        bias_LM = self.param("position_bias", nn.initializers.zeros_init(), (L // frames[0], M // frames[1]))
        bias_LM = bias_LM if frames == (1, 1) else jnp.tile(bias_LM, frames)
        logits_BNLM = jnp.einsum("BNLK,BNMK->BNLM", q_BNLK, k_BNMK).astype(jnp.float32) / tau + bias_LM
        mask = None if other_mask is None else other_mask[:, None, None, :]
        weights_BNLM = layers.masked_softmax(logits_BNLM, mask)
        dropped = layers.Dropout(self.dropout)(weights_BNLM, deterministic=deterministic).astype(self.dtype)
        out_BNLK = jnp.einsum("BNLM,BNMK->BNLK", dropped, v_BNMK)
        return layers.dense(S, self.dtype, "out")(layers.join_heads(out_BNLK)), weights_BNLM.mean(axis=1)


class PooledExchange(nn.Module):
    """Every token of one side receives the other side's mean. With one key a softmax is 1: no query, key or tau."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, other_BMS: Float[Array, "B M S"], other_mask: Bool[Array, "B M"] | None):
        S = other_BMS.shape[-1]
        pooled_B1S = layers.masked_mean(other_BMS, other_mask)[:, None]
        return layers.dense(S, self.dtype, "out")(layers.dense(S, self.dtype, "value")(pooled_B1S))


class Interaction(nn.Module):
    """One interaction layer. `design` is "cross" (the method), "self_cross" or "pooled" (Table 5's rivals).

    1. Z_v = LN(H_v) W_vs, Z_t = LN(H_t) W_ts
    2. A_t: text queries over image keys; A_v: image queries over text keys; separate weights
    3. H_t + sigmoid(b_t) (A_t W_st), H_v + sigmoid(b_v) (A_v W_sv)

    With a gate at exactly zero that side's states return bit for bit. Of k pictures a row (frames of a video) the text
    attends to all kP tokens at once, and each of them to the text; k times the same picture is that picture.

    Returns the updated states and the weights of both attentions, None for "pooled"; with `compare`, what the two
    attentions compare and no more.
    """

    cfg: Bridge
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        image_BPD: Float[Array, "B *k P D_v"],
        text_BTD: Float[Array, "B T D_t"],
        mask_BT: Bool[Array, "B T"],
        deterministic: bool,
        compare: bool = False,
    ) -> Any:
        cfg, dtype, S = self.cfg, self.dtype, self.cfg.shared_width
        shape, frames = image_BPD.shape, image_BPD.shape[1] if image_BPD.ndim > 3 else 1
        image_BPD = image_BPD.reshape(shape[0], -1, shape[-1])
        z_v = layers.dense(S, dtype, "image_to_shared")(layers.layer_norm(NORM_EPS, dtype, "image_norm")(image_BPD))
        z_t = layers.dense(S, dtype, "text_to_shared")(layers.layer_norm(NORM_EPS, dtype, "text_norm")(text_BTD))
        if cfg.design == "self_cross":
            z_v, z_t = (
                self._self_attend("image", z_v, None, deterministic),
                self._self_attend("text", z_t, mask_BT, deterministic),
            )
        if cfg.design == "pooled":
            a_t, a_v = (
                PooledExchange(dtype, name="text_over_image")(z_v, None),
                PooledExchange(dtype, name="image_over_text")(z_t, mask_BT),
            )
            text_over_image = image_over_text = None
        else:
            settings = (cfg.heads, cfg.tau_start, cfg.attention_dropout, dtype)
            of_text = CosineAttention(*settings, name="text_over_image")
            of_image = CosineAttention(*settings, name="image_over_text")
            by_text = of_text(z_t, z_v, None, deterministic, (1, frames), compare)
            by_image = of_image(z_v, z_t, mask_BT, deterministic, (frames, 1), compare)
            if compare:
                return by_text, by_image
            (a_t, text_over_image), (a_v, image_over_text) = by_text, by_image
        return (
            self._residual("image", image_BPD, a_v, deterministic).reshape(shape),
            self._residual("text", text_BTD, a_t, deterministic),
            text_over_image,
            image_over_text,
        )

    def _self_attend(self, side: str, z: jax.Array, mask: jax.Array | None, deterministic: bool) -> jax.Array:
        y = layers.layer_norm(NORM_EPS, self.dtype, f"{side}_self_norm")(z)
        attention = layers.SelfAttention(
            self.cfg.heads, self.dtype, self.cfg.attention_dropout, name=f"{side}_self_attention"
        )
        return z + attention(y, mask, deterministic)

    def _residual(self, side: str, states: jax.Array, update: jax.Array, deterministic: bool) -> jax.Array:
        start = float(np.log(self.cfg.gate_start / (1 - self.cfg.gate_start)))
        gate = nn.sigmoid(self.param(f"{side}_gate", nn.initializers.constant(start), ())).astype(self.dtype)
        # From zero: the first update is none, whatever the gate, and the gate may start wide enough to learn by.
        back = layers.dense(states.shape[-1], self.dtype, f"shared_to_{side}", nn.initializers.zeros_init())
        update = back(update)
        return states + gate * layers.Dropout(self.cfg.output_dropout)(update, deterministic=deterministic)
