"""The decoder: writes a caption or an answer word by word, from the encoders' finished states.

Only the decoder is causal; the encoders are not. It runs in two ways with the same parameters:

    __call__    all words of a known caption at once (teacher forcing); each word is predicted from those before it
    step        one more word for every row; a cache holds the keys and values of the words before it
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Blocks
from bridge_jax.config import Decoder as DecoderConfig
from bridge_jax.models import layers, stack
from bridge_jax.types import Array

NORM_EPS = 1e-6
Cache = tuple["KeysValues", ...]  # one per block


class KeysValues(NamedTuple):
    """The keys and values of an attention."""

    keys: Float[Array, "B N L K"]
    values: Float[Array, "B N L K"]


class Memory(NamedTuple):
    """Keys and values of the encoders' states, per block. One row may serve several rows of words (beams, answers)."""

    blocks: tuple[KeysValues, ...]
    mask: Bool[Array, "B L"]


class Attention(nn.Module):
    """Multi-head attention by scaled dot products. KeysValues and values are computed apart, by `keys_values`."""

    cfg: DecoderConfig
    dtype: jnp.dtype

    def setup(self):
        shape = (self.cfg.width, self.cfg.width)
        self.query, self.key, self.value = (layers.AffineMap(shape) for _ in range(3))
        self.out = layers.dense(self.cfg.width, self.dtype)
        self.drop = layers.Dropout(self.cfg.dropout)

    def keys_values(self, x_BLW: Float[Array, "B L W"]) -> KeysValues:
        return KeysValues(*layers.project(x_BLW.astype(self.dtype), self.cfg.heads, self.key, self.value))

    def __call__(
        self, x_BQW: Float[Array, "B Q W"], source: KeysValues, mask: Bool[Array, "#B #Q L"], deterministic: bool
    ) -> Float[Array, "B Q W"]:
        (q_BNQK,) = layers.project(x_BQW.astype(self.dtype), self.cfg.heads, self.query)
        out_BNQK = layers.attend(q_BNQK, *source, mask[:, None], lambda weights: self.drop(weights, deterministic))
        return self.out(layers.join_heads(out_BNQK))


class Block(nn.Module):
    """Pre-norm residuals: attention to the words so far, attention to the encoders' states, then an MLP."""

    cfg: DecoderConfig
    dtype: jnp.dtype

    def setup(self):
        self.self_attention, self.cross_attention = (Attention(self.cfg, self.dtype) for _ in range(2))
        self.self_norm, self.cross_norm, self.mlp_norm = (layers.layer_norm(NORM_EPS, self.dtype) for _ in range(3))
        self.mlp = layers.Mlp(self.cfg.mlp_width, self.dtype)
        self.drop = layers.Dropout(self.cfg.dropout)

    def __call__(
        self, x_RTW: Float[Array, "R T W"], memory: KeysValues, mask: Bool[Array, "B L"], deterministic: bool
    ) -> Float[Array, "R T W"]:
        """Run over all words at once; none sees a later one."""
        T = x_RTW.shape[1]
        y = self.self_norm(x_RTW)
        y = self.self_attention(
            y, self.self_attention.keys_values(y), jnp.tril(jnp.ones((1, T, T), bool)), deterministic
        )
        return self._read(x_RTW + self.drop(y, deterministic), memory, mask, deterministic)

    def step(
        self,
        x_R1W: Float[Array, "R 1 W"],
        memory: KeysValues,
        mask: Bool[Array, "B L"],
        cache: KeysValues,
        position: Array,
    ) -> tuple[Float[Array, "R 1 W"], KeysValues]:
        """Run over the word at `position`; return its states and the cache [R,N,T,K] with its keys and values added."""
        y = self.self_norm(x_R1W)
        new = self.self_attention.keys_values(y)
        cache = KeysValues(
            *(jax.lax.dynamic_update_slice_in_dim(old, x, position, 2) for old, x in zip(cache, new, strict=True))
        )
        causal = (jnp.arange(cache.keys.shape[2]) <= position)[None, None]
        y = self.self_attention(y, cache, causal, deterministic=True)
        return self._read(x_R1W + y, memory, mask, deterministic=True), cache

    def _read(self, x: Array, memory: KeysValues, mask: Array, deterministic: bool) -> jax.Array:
        # All beams or answers of a picture become queries to its one row.
        queries = self.cross_norm(x).reshape(len(mask), -1, x.shape[-1])
        y = self.cross_attention(queries, memory, mask[:, None], deterministic).reshape(x.shape)
        x = x + self.drop(y, deterministic)
        return x + self.drop(self.mlp(self.mlp_norm(x)), deterministic)


class Decoder(nn.Module):
    """Map words to the logits of the next word. The output layer shares the word embedding and adds a bias."""

    cfg: DecoderConfig
    vocab_size: int
    length: int  # T, words of a caption
    dtype: jnp.dtype
    execution: Blocks = Blocks(scan=False, remat="none", kernels="plain")

    def setup(self):
        cfg = self.cfg
        self.image = layers.dense(cfg.width, self.dtype)
        if cfg.reads == "fused":
            self.text = layers.dense(cfg.width, self.dtype)
        table = {"features": cfg.width, "embedding_init": layers.small_init, "dtype": self.dtype}
        self.word = nn.Embed(self.vocab_size, **table)
        self.position = nn.Embed(self.length, **table)
        self.blocks = [Block(cfg, self.dtype, name=f"block_{i:02d}") for i in range(cfg.layers)]
        self.norm = layers.layer_norm(NORM_EPS, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.vocab_size,))
        self.drop = layers.Dropout(cfg.dropout)

    def read(
        self,
        image_BPD: Float[Array, "B P D_v"],
        text: tuple[Float[Array, "B T D_t"], Bool[Array, "B T"]] | None = None,
    ) -> Memory:
        """Return the keys and values of a picture's finished states, followed by those of a `text` (states, mask)."""
        states, mask = self.image(image_BPD), jnp.ones(image_BPD.shape[:2], bool)
        if text is not None:
            states = jnp.concatenate([states, self.text(text[0])], axis=1)
            mask = jnp.concatenate([mask, text[1]], axis=1)
        return Memory(tuple(block.cross_attention.keys_values(states) for block in self.blocks), mask)

    def __call__(self, ids_RT: Int[Array, "R T"], memory: Memory, deterministic: bool = True) -> Float[Array, "R T V"]:
        """Return the logits of every next word, float32: those at t depend on words 0 to t. R is a multiple of B."""
        x = self.word(ids_RT) + self.position(jnp.arange(ids_RT.shape[1]))[None]
        x = self.drop(x, deterministic)
        x = stack.run_blocks(self.execution, self.blocks, x, memory.mask, deterministic, each=memory.blocks)
        return self._logits(x)

    def step(
        self, ids_R: Int[Array, "R"], position: Array, cache: Cache, memory: Memory
    ) -> tuple[Float[Array, "R V"], Cache]:
        """Return the logits of the word after `position`, and the cache with the word there. R is a multiple of B."""
        x = (self.word(ids_R) + self.position(position)[None])[:, None]
        updated = []
        for block, block_memory, block_cache in zip(self.blocks, memory.blocks, cache, strict=True):
            x, block_cache = block.step(x, block_memory, memory.mask, block_cache, position)
            updated.append(block_cache)
        return self._logits(x)[:, 0], tuple(updated)

    def empty_cache(self, rows: int) -> Cache:
        """Return the cache of `rows` rows before their first word."""
        cfg = self.cfg
        empty = jnp.zeros((rows, cfg.heads, self.length, cfg.width // cfg.heads), self.dtype)
        return tuple(KeysValues(empty, empty) for _ in range(cfg.layers))

    def _logits(self, x: Array) -> Any:
        return self.word.attend(self.norm(x)).astype(jnp.float32) + self.bias[None, None]
