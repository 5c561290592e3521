"""The interaction layer, in which the two towers exchange hidden states (Eq. 1-3 of the paper)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bridge_jax.config import Bridge
from bridge_jax.models import layers
from bridge_jax.models.kernels import attention as kernel
from bridge_jax.models.token_similarity import QueryKey
from bridge_jax.types import Array

NORM_EPS = 1e-5


class CosineAttention(nn.Module):
    """Attend from the tokens of one side to those of the other; the logits are cosines over a learned temperature.

    logits = <q, k> / (|q| |k| tau) + bias with tau = softplus(raw). There is no 1/sqrt(K), and the heads share one
    learned position bias. Tau starts at `tau_start`: at the authors' start of 1, attention over 197 keys is nearly
    uniform.

    Returns the attended values [B,L,S] and the weights [B,L,M], averaged over the heads, before dropout. With
    `compare` it returns only the normalised queries and keys, as a QueryKey.
    """

    heads: int
    tau_start: float
    dropout: float
    dtype: jnp.dtype
    pictures: tuple[int, int] = (1, 1)  # of the query side, of the other side; each picture has the same position bias
    kernels: str = "plain"  # config.blocks.kernels

    @nn.compact
    def __call__(
        self,
        query_BLS: Float[Array, "B L S"],
        other_BMS: Float[Array, "B M S"],
        other_mask: Bool[Array, "B M"] | None,
        deterministic: bool,
        compare: bool = False,
    ) -> Any:
        (B, L, S), M = query_BLS.shape, other_BMS.shape[1]
        query_BLS, other_BMS = query_BLS.astype(self.dtype), other_BMS.astype(self.dtype)
        query_pictures, other_pictures = self.pictures
        query, key, value = (layers.AffineMap((S, S), name=name) for name in ("query", "key", "value"))
        if compare:
            ((q_BNLK,), (k_BNMK,)) = (
                layers.project(query_BLS, self.heads, query),
                layers.project(other_BMS, self.heads, key),
            )
            q_BNLK, k_BNMK = (layers.l2_normalise(x).astype(self.dtype) for x in (q_BNLK, k_BNMK))
            return QueryKey(layers.join_heads(q_BNLK), layers.join_heads(k_BNMK) / self.heads)
        tau_raw = float(np.log(np.expm1(self.tau_start)))
        tau = nn.softplus(self.param("tau", nn.initializers.constant(tau_raw), ()))
        bias_LM = self.param("position_bias", nn.initializers.zeros_init(), (L // query_pictures, M // other_pictures))
        bias_LM = bias_LM if self.pictures == (1, 1) else jnp.tile(bias_LM, self.pictures)
        drop = layers.Dropout(self.dropout)
        form = kernel.form_of(self.kernels, B, (L, M, S), self.heads, self.dtype)
        if form != "plain":
            project = functools.partial(layers.project_joined, self.kernels, self.dtype)
            states = project(query_BLS, query), project(other_BMS, key, value)
            dropped = drop.in_kernel(deterministic)
            out_BLS, weights_BLM = kernel.attend(form, self.heads, states, 1 / tau, bias_LM, other_mask, **dropped)
            return layers.affine(self.kernels, out_BLS, S, self.dtype, "out"), weights_BLM
        (q_BNLK,) = layers.project(query_BLS, self.heads, query)
        k_BNMK, v_BNMK = layers.project(other_BMS, self.heads, key, value)
        q_BNLK, k_BNMK = (layers.l2_normalise(x).astype(self.dtype) for x in (q_BNLK, k_BNMK))
        logits_BNLM = jnp.einsum("BNLK,BNMK->BNLM", q_BNLK, k_BNMK).astype(jnp.float32) / tau + bias_LM[None, None]
        mask = None if other_mask is None else other_mask[:, None, None, :]
        weights_BNLM = layers.masked_softmax(logits_BNLM, mask)
        kept_BNLM = drop(weights_BNLM, deterministic=deterministic).astype(self.dtype)
        out_BNLK = jnp.einsum("BNLM,BNMK->BNLK", kept_BNLM, v_BNMK)
        return layers.dense(S, self.dtype, "out")(layers.join_heads(out_BNLK)), weights_BNLM.mean(axis=1)


class PooledExchange(nn.Module):
    """Give every token of one side the other side's mean. A softmax over one key is 1: no query, key or tau."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, other_BMS: Float[Array, "B M S"], other_mask: Bool[Array, "B M"] | None):
        S = other_BMS.shape[-1]
        pooled_B1S = layers.masked_mean(other_BMS, other_mask)[:, None]
        return layers.dense(S, self.dtype, "out")(layers.dense(S, self.dtype, "value")(pooled_B1S))


class Interaction(nn.Module):
    """One interaction layer. `design` is "cross" (the method), "self_cross" or "pooled" (the rivals of Table 5).

    1. Z_v = LN(H_v) W_vs, Z_t = LN(H_t) W_ts
    2. A_t: text queries over image keys; A_v: image queries over text keys; separate weights
    3. H_t + sigmoid(b_t) (A_t W_st), H_v + sigmoid(b_v) (A_v W_sv)

    A gate of exactly zero returns that side's states bit for bit. If a row has k pictures (a video's frames), the text
    attends to all kP tokens at once, and each of them to the text; k equal pictures act as one.

    Returns the updated image and text states, then the weights of text over image and of image over text (None for
    "pooled"). With `compare` it returns only the queries and keys of the two attentions, a QueryKey each.
    """

    cfg: Bridge
    dtype: jnp.dtype
    kernels: str = "plain"  # config.blocks.kernels

    @nn.compact
    def __call__(
        self,
        image_BPD: Float[Array, "B *k P D_v"],
        text_BTD: Float[Array, "B T D_t"],
        mask_BT: Bool[Array, "B T"],
        deterministic: bool,
        compare: bool = False,
    ) -> Any:
        cfg, dtype = self.cfg, self.dtype
        shape, k = image_BPD.shape, image_BPD.shape[1] if image_BPD.ndim > 3 else 1
        image_BPD = image_BPD.reshape(shape[0], -1, shape[-1])
        z_v, z_t = self._to_shared("image", image_BPD), self._to_shared("text", text_BTD)
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
            text_attention = CosineAttention(*settings, (1, k), self.kernels, name="text_over_image")
            image_attention = CosineAttention(*settings, (k, 1), self.kernels, name="image_over_text")
            by_text = text_attention(z_t, z_v, None, deterministic, compare)
            by_image = image_attention(z_v, z_t, mask_BT, deterministic, compare)
            if compare:
                return by_text, by_image
            (a_t, text_over_image), (a_v, image_over_text) = by_text, by_image
        return (
            self._residual("image", image_BPD, a_v, deterministic).reshape(shape),
            self._residual("text", text_BTD, a_t, deterministic),
            text_over_image,
            image_over_text,
        )

    def _to_shared(self, side: str, states: Array) -> jax.Array:
        norm = layers.layer_norm(NORM_EPS, self.dtype, f"{side}_norm")
        return layers.affine(self.kernels, states, self.cfg.shared_width, self.dtype, f"{side}_to_shared", norm=norm)

    def _self_attend(self, side: str, z: Array, mask: Array | None, deterministic: bool) -> jax.Array:
        y = layers.layer_norm(NORM_EPS, self.dtype, f"{side}_self_norm")(z)
        attention = layers.SelfAttention(
            self.cfg.heads,
            self.dtype,
            self.cfg.attention_dropout,
            kernels=self.kernels,
            name=f"{side}_self_attention",
        )
        return z + attention(y, mask, deterministic)

    def _residual(self, side: str, states: Array, update: Array, deterministic: bool) -> jax.Array:
        start = float(np.log(self.cfg.gate_start / (1 - self.cfg.gate_start)))
        gate = nn.sigmoid(self.param(f"{side}_gate", nn.initializers.constant(start), ())).astype(self.dtype)
        # The map starts at zero, so the first update is zero at any gate: the gate may start wide enough to learn.
        zeros = nn.initializers.zeros_init()
        update = layers.affine(self.kernels, update, states.shape[-1], self.dtype, f"shared_to_{side}", zeros)
        return states + gate * layers.Dropout(self.cfg.output_dropout)(update, deterministic=deterministic)
