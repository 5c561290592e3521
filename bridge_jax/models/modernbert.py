"""The text tower ModernBERT (arXiv 2412.13663): pre-norm blocks with rotary positions, GeGLU and no biases.

Every third block, from the first on, is global: it attends to all words. The others are local: they attend to words at
most 64 away. The two kinds rotate queries and keys at different frequencies, so they differ even if a caption is
shorter than the window. The config gives the sizes; values that all released models share are constants here. The names
of the fused products, `qkv` and `up`, are ours; their columns are in Hugging Face's order.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Blocks, Text
from bridge_jax.models import layers, rotary, stack
from bridge_jax.types import Array

GLOBAL_EVERY = 3  # blocks
REACH = 64  # words to either side: half of Hugging Face's `local_attention`
THETA_GLOBAL, THETA_LOCAL = 160_000.0, 10_000.0


class Attention(nn.Module):
    """Self-attention, [B,T,D] -> [B,T,D]. One product computes queries, keys and values, in this order."""

    cfg: Text
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask_BTT: Bool[Array, "B T T"],
        rotation: rotary.Rotation,
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        D, heads, drop = x_BTD.shape[-1], self.cfg.heads, layers.Dropout(self.cfg.dropout)
        qkv = layers.dense(3 * D, self.dtype, "qkv", bias=False)(x_BTD)
        q_BNTK, k_BNTK, v_BNTK = (layers.split_heads(part, heads) for part in jnp.split(qkv, 3, axis=-1))
        q_BNTK, k_BNTK = rotary.rotate(q_BNTK, rotation), rotary.rotate(k_BNTK, rotation)
        out = layers.attend(q_BNTK, k_BNTK, v_BNTK, mask_BTT[:, None], lambda w: drop(w, deterministic=deterministic))
        out = layers.dense(D, self.dtype, "out", bias=False)(layers.join_heads(out))
        return drop(out, deterministic=deterministic)


class GatedMlp(nn.Module):
    """GeGLU: `down(gelu(a) * b)`, where a and b are the halves of `up(x)`."""

    cfg: Text
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> jax.Array:
        a, b = jnp.split(layers.dense(2 * self.cfg.mlp_width, self.dtype, "up", bias=False)(x), 2, axis=-1)
        y = layers.Dropout(self.cfg.dropout)(layers.gelu(a) * b, deterministic=deterministic)
        return layers.dense(x.shape[-1], self.dtype, "down", bias=False)(y)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; the first block's attention has no norm.

    `is_global` is an input, not a field, so that `stack.run_blocks` can scan over both kinds of blocks.
    """

    cfg: Text
    dtype: jnp.dtype
    is_first: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        is_global: bool | Bool[Array, ""],
        mask_BT: Bool[Array, "B T"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        cfg, dtype, T = self.cfg, self.dtype, x_BTD.shape[1]
        distance_TT = np.abs(np.arange(T)[:, None] - np.arange(T)[None])
        mask_BTT = mask_BT[:, None, :] & (is_global | (distance_TT <= REACH))[None]
        rotation = rotation_of(T, cfg.width // cfg.heads, jnp.where(is_global, THETA_GLOBAL, THETA_LOCAL))
        y = x_BTD if self.is_first else layers.layer_norm(cfg.norm_eps, dtype, "attention_norm", bias=False)(x_BTD)
        x_BTD = x_BTD + Attention(cfg, dtype, name="attention")(y, mask_BTT, rotation, deterministic)
        y = layers.layer_norm(cfg.norm_eps, dtype, "mlp_norm", bias=False)(x_BTD)
        return x_BTD + GatedMlp(cfg, dtype, name="mlp")(y, deterministic)


class Tower(nn.Module):
    """`embed` -> `blocks(start, stop)` -> `finish`; states are [B,T,D] all the way."""

    cfg: Text
    dtype: jnp.dtype
    execution: Blocks = Blocks(scan=False, remat="none", kernels="plain")
    side: ClassVar[str] = "text"
    period: ClassVar[int] = GLOBAL_EVERY

    def setup(self):
        cfg = self.cfg
        self.word = nn.Embed(cfg.vocab_size, cfg.width, embedding_init=layers.small_init, dtype=self.dtype)
        self.norm = layers.layer_norm(cfg.norm_eps, self.dtype, bias=False)
        self.embed_dropout = layers.Dropout(cfg.dropout)
        self.layers = [Block(cfg, self.dtype, is_first=i == 0, name=f"block_{i:02d}") for i in range(cfg.depth)]
        self.final_norm = layers.layer_norm(cfg.norm_eps, self.dtype, bias=False)

    def embed(self, ids_BT: Int[Array, "B T"], deterministic: bool) -> Float[Array, "B T D"]:
        """Look up the word embeddings and normalise them; the blocks add the positions."""
        return self.embed_dropout(self.norm(self.word(ids_BT)), deterministic=deterministic)

    def blocks(
        self, x_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], start: int, stop: int, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Run blocks `start` to `stop - 1`; padding (`mask_BT` False) is never attended to."""
        mask_BT, after_first = (
            jnp.asarray(mask_BT),
            min(max(start, 1), stop),
        )  # only the first block has no attention_norm
        for part in (range(start, after_first), range(after_first, stop)):
            is_global = [i % GLOBAL_EVERY == 0 for i in part]
            blocks = [self.layers[i] for i in part]
            x_BTD = stack.run_blocks(self.execution, blocks, x_BTD, mask_BT, deterministic, each=is_global)
        return x_BTD

    def finish(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the final LayerNorm."""
        return self.final_norm(x_BTD)


def rotation_of(length: int, features: int, theta: Float[Array, ""]) -> rotary.Rotation:
    """Return cosines and sines, [T,K] each, of the angles position / theta ** (2 k / K), for both halves of K."""
    frequency = theta ** -(jnp.arange(0, features, 2) / features)
    angles = jnp.tile(jnp.arange(length)[:, None] * frequency[None], 2)
    return jnp.cos(angles), jnp.sin(angles)
