"""The text tower BERT: post-norm blocks and absolute positions, without the pooler."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Blocks, Text
from bridge_jax.models import layers, stack
from bridge_jax.types import Array


class Block(nn.Module):
    """Post-norm: `norm(x + attention(x))`, then `norm(x + mlp(x))`."""

    cfg: Text
    dtype: jnp.dtype
    kernels: str = "plain"  # config.blocks.kernels

    @nn.compact
    def __call__(
        self, x_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], deterministic: bool
    ) -> Float[Array, "B T D"]:
        cfg, dtype = self.cfg, self.dtype
        attention = layers.SelfAttention(cfg.heads, dtype, cfg.dropout, kernels=self.kernels, name="attention")
        y = attention(x_BTD, mask_BT, deterministic)
        y = layers.Dropout(cfg.dropout)(y, deterministic=deterministic)
        x_BTD = layers.layer_norm(cfg.norm_eps, dtype, "attention_norm")(x_BTD + y)
        y = layers.Mlp(cfg.mlp_width, dtype, name="mlp")(x_BTD)
        y = layers.Dropout(cfg.dropout)(y, deterministic=deterministic)
        return layers.layer_norm(cfg.norm_eps, dtype, "mlp_norm")(x_BTD + y)


class Tower(nn.Module):
    """`embed` -> `blocks(start, stop)` -> `finish`; states are [B,T,D] all the way."""

    cfg: Text
    dtype: jnp.dtype
    execution: Blocks = Blocks(scan=False, remat="none", kernels="plain")
    side: ClassVar[str] = "text"
    period: ClassVar[int] = 1  # blocks whose indices differ by it have equal structure
    first_position: ClassVar[int] = 0

    def setup(self):
        cfg = self.cfg
        table = {"features": cfg.width, "embedding_init": layers.small_init, "dtype": self.dtype}
        self.word = nn.Embed(cfg.vocab_size, **table)
        self.position = nn.Embed(cfg.max_positions, **table)
        self.token_type = nn.Embed(cfg.token_types, **table)
        self.norm = layers.layer_norm(cfg.norm_eps, self.dtype)
        self.embed_dropout = layers.Dropout(cfg.dropout)
        self.layers = [Block(cfg, self.dtype, self.execution.kernels, name=f"block_{i:02d}") for i in range(cfg.depth)]

    def embed(self, ids_BT: Int[Array, "B T"], deterministic: bool) -> Float[Array, "B T D"]:
        """Add word, position and first-segment embeddings; normalise the sum."""
        positions_T = self.first_position + jnp.arange(ids_BT.shape[1])
        x_BTD = self.word(ids_BT) + self.position(positions_T)[None] + self.token_type(jnp.zeros((1, 1), int))
        return self.embed_dropout(self.norm(x_BTD), deterministic=deterministic)

    def blocks(
        self, x_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], start: int, stop: int, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Run blocks `start` to `stop - 1`; padding (`mask_BT` False) is never attended to."""
        return stack.run_blocks(self.execution, self.layers[start:stop], x_BTD, mask_BT, deterministic)

    def finish(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return the states unchanged: a post-norm tower ends normalised."""
        return x_BTD
