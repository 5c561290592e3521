"""The towers of TIPSv2 (arXiv 2604.12012): a DINOv2 with one register, and a pre-norm text Transformer with ReLU.

Queries, keys and values are one product, as in the files. The image tower covers the released models with a plain MLP;
its register is a second class token, averaged with all others.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from bridge_jax.models import clip, dinov2_with_registers, resample, vit
from bridge_jax.types import Array


class VisionTower(dinov2_with_registers.Tower):
    """`embed` -> `blocks(start, stop)` -> `finish`; P = class token + register + patches."""

    prefix: ClassVar[int] = 1 + 1
    fused_qkv: ClassVar[bool] = True

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 P D"]:
        return vit.resize_positions(self.position, grid, resample.antialiased_linear)


class TextTower(clip.TextTower):
    """CLIP's text Transformer with bidirectional attention, larger word embeddings and fixed positions."""

    causal: ClassVar[bool] = False
    activation: ClassVar[Callable] = staticmethod(nn.relu)
    fused_qkv: ClassVar[bool] = True

    def _make_positions(self) -> None:
        """Make no parameters: the positions are sines and cosines."""

    def embed(self, ids_BT: Int[Array, "B T"], deterministic: bool) -> Float[Array, "B T D"]:
        """Scale word embeddings by sqrt(D) and add the positions."""
        del deterministic  # there is no dropout here
        words, positions = self.word(ids_BT) * math.sqrt(self.cfg.width), sinusoids(ids_BT.shape[1], self.cfg.width)
        return words + positions[None].astype(self.dtype)


def sinusoids(length: int, width: int) -> Float[Array, "T D"]:
    """Return sines, then cosines, of position / 10,000 ** (2 k / (D - 2)) for k < D / 2 (tensor2tensor's)."""
    frequency = 10_000.0 ** -(jnp.arange(width // 2) / (width // 2 - 1))
    angles = jnp.arange(length)[:, None] * frequency[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
