"""CLIP's towers: a ViT with a norm before its blocks, and a causal pre-norm text Transformer. Both use quick GELU.

CLIP's projections are left out. CLIP pools the class token and the end of the caption; here, as for every tower, all
real tokens are averaged, and the heads learn to read the average.
"""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from bridge_jax.config import Blocks, Text
from bridge_jax.models import layers, pre_norm, stack, vit
from bridge_jax.types import Array


class VisionTower(vit.Tower):
    """A ViT whose tokens are normalised before the first block and whose patches have no bias.

    `finish` applies the final norm to all tokens. Hugging Face applies it to the class token alone, and its
    `last_hidden_state` lacks it.
    """

    patch_bias: ClassVar[bool] = False
    activation: ClassVar[Callable] = staticmethod(layers.quick_gelu)

    def setup(self):
        super().setup()
        self.embed_norm = layers.layer_norm(self.cfg.norm_eps, self.dtype)

    def _place(self, x_BPD: Float[Array, "B patches D"], grid: tuple[int, int]) -> Float[Array, "B P D"]:
        return self.embed_norm(super()._place(x_BPD, grid))


class TextTower(nn.Module):
    """`embed` -> `blocks(start, stop)` -> `finish`; states are [B,T,D] all the way."""

    cfg: Text
    dtype: jnp.dtype
    execution: Blocks = Blocks(scan=False, remat="none", kernels="plain")
    side: ClassVar[str] = "text"
    period: ClassVar[int] = 1  # blocks whose indices differ by it have equal structure
    causal: ClassVar[bool] = True
    fused_qkv: ClassVar[bool] = False
    activation: ClassVar[Callable] = staticmethod(layers.quick_gelu)

    def setup(self):
        cfg = self.cfg
        form = {"kernels": self.execution.kernels, "fused_qkv": self.fused_qkv}
        self.word = self._table(cfg.vocab_size)
        self._make_positions()
        self.layers = [
            pre_norm.PreNormBlock(cfg, self.dtype, self.activation, **form, name=f"block_{i:02d}")
            for i in range(cfg.depth)
        ]
        self.final_norm = layers.layer_norm(cfg.norm_eps, self.dtype)

    def _table(self, rows: int) -> nn.Embed:
        return nn.Embed(rows, self.cfg.width, embedding_init=layers.small_init, dtype=self.dtype)

    def _make_positions(self) -> None:
        self.position = self._table(self.cfg.max_positions)

    def embed(self, ids_BT: Int[Array, "B T"], deterministic: bool) -> Float[Array, "B T D"]:
        """Add word and position embeddings."""
        del deterministic  # there is no dropout here
        return self.word(ids_BT) + self.position(jnp.arange(ids_BT.shape[1]))[None]

    def blocks(
        self, x_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], start: int, stop: int, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Run blocks `start` to `stop - 1`; padding is never attended to, nor, if `causal`, later tokens."""
        mask = jnp.asarray(mask_BT)
        if self.causal:
            mask = mask[:, None, :] & jnp.tri(mask.shape[1], dtype=bool)[None]
        return stack.run_blocks(self.execution, self.layers[start:stop], x_BTD, mask, None, deterministic)

    def finish(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the final LayerNorm."""
        return self.final_norm(x_BTD)
