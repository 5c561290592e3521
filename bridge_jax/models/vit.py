"""The image tower: a Vision Transformer with a class token, pre-norm blocks and a final LayerNorm.

It covers Hugging Face's `vit`, without the pooler, and, with LayerScale, `dinov2`. The towers of CLIP, SigLIP, DINOv3
and DINOv2 with registers inherit from it.
"""

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from bridge_jax.config import Blocks, Vision
from bridge_jax.models import layers, pre_norm, resample, stack
from bridge_jax.types import Array


class Tower(nn.Module):
    """`embed` -> `blocks(start, stop)` -> `finish`; states are [B,P,D] all the way, P = prefix + patches."""

    cfg: Vision
    dtype: jnp.dtype
    execution: Blocks = Blocks(scan=False, remat="none", kernels="plain")
    side: ClassVar[str] = "vision"
    prefix: ClassVar[int] = 1  # tokens before the patches: the class token
    patch_bias: ClassVar[bool] = True
    key_bias: ClassVar[bool] = True
    fused_qkv: ClassVar[bool] = False
    activation: ClassVar[Callable] = staticmethod(layers.gelu)

    def setup(self):
        cfg, token_init = self.cfg, layers.small_init
        self.patch = self._make_patch()
        if self.prefix:
            self.class_token = self.param("class_token", token_init, (1, 1, cfg.width))
        self._make_positions()
        if cfg.mask_token:
            self.mask_token = self.param("mask_token", token_init, (1, 1, cfg.width))
        block = functools.partial(
            pre_norm.PreNormBlock,
            cfg,
            self.dtype,
            self.activation,
            cfg.layer_scale,
            self.key_bias,
            self.execution.kernels,
            self.fused_qkv,
        )
        self.layers = [block(name=f"block_{i:02d}") for i in range(cfg.depth)]
        self.norm = layers.layer_norm(cfg.norm_eps, self.dtype)

    def _make_patch(self) -> nn.Module:
        """Return the module that makes tokens of pixels, [B,H,W,3] -> [B,rows,columns,D]."""
        patch = (self.cfg.patch_px, self.cfg.patch_px)
        return nn.Conv(
            self.cfg.width,
            patch,
            strides=patch,
            dtype=self.dtype,
            kernel_init=layers.kernel_init,
            use_bias=self.patch_bias,
        )

    def _make_positions(self) -> None:
        stored = min(self.prefix, 1) + self.cfg.position_grid**2
        self.position = self.param("position", _sincos, (1, stored, self.cfg.width))

    def embed(
        self, pixels: Float[Array, "B H W 3"], masked: Bool[Array, "B patches"] | None = None
    ) -> Float[Array, "B P D"]:
        """Cut normalised pixels into patches, prepend the class token, add positions resized to this resolution.

        Where `masked` is True, the mask token (MIM) replaces the patch before the position is added.
        """
        x = self.patch(pixels.astype(self.dtype))
        B, rows, columns, D = x.shape
        x_BPD = x.reshape(B, rows * columns, D)
        if masked is not None:
            x_BPD = jnp.where(masked[..., None], self.mask_token.astype(self.dtype), x_BPD)
        return self._place(x_BPD, (rows, columns))

    def _place(self, x_BPD: Float[Array, "B patches D"], grid: tuple[int, int]) -> Float[Array, "B P D"]:
        """Prepend the class token and add the positions."""
        if self.prefix:
            class_B1D = jnp.broadcast_to(self.class_token, (x_BPD.shape[0], 1, x_BPD.shape[-1])).astype(self.dtype)
            x_BPD = jnp.concatenate([class_B1D, x_BPD], axis=1)
        return x_BPD + self._positions(grid).astype(self.dtype)

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 P D"]:
        """Return the positions that `_place` adds, resized to `grid`."""
        return resize_positions(self.position, grid)

    def blocks(self, x_BPD: Float[Array, "B P D"], start: int, stop: int, deterministic: bool) -> Float[Array, "B P D"]:
        """Run blocks `start` to `stop - 1`."""
        return stack.run_blocks(self.execution, self.layers[start:stop], x_BPD, None, None, deterministic)

    def finish(self, x_BPD: Float[Array, "B *k P D"]) -> Float[Array, "B *k P D"]:
        """Apply the final LayerNorm; with k pictures a row, to each."""
        return self.norm(x_BPD)


def _sincos(key: Array, shape: tuple[int, int, int]) -> Float[Array, "1 L D"]:
    """Initialise the learned positions as sines and cosines of row and column (Beyer et al. 2022, arXiv 2205.01580).

    With the usual noise of 0.02, a tower trained from random weights hardly sees positions: its patches start twenty
    times as large. Pretrained positions overwrite these. The class token's position starts at zero.
    """
    del key
    side, width = math.isqrt(shape[1]), shape[2]
    frequency = 10_000.0 ** -(jnp.arange(width // 4) / max(1, width // 4 - 1))
    row, column = jnp.divmod(jnp.arange(side * side), side)
    angles = [axis[:, None] * frequency[None] for axis in (row, column)]
    table = jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=1)
    table = jnp.pad(table, ((shape[1] - side * side, 0), (0, width - table.shape[1])))
    return table[None]


def resize_positions(
    position: Float[Array, "1 L D"], grid: tuple[int, int], weights: Callable = resample.cubic
) -> Float[Array, "1 P D"]:
    """Resize the square grid of patch positions to `grid` rows and columns; keep a class position before it.

    `weights` resamples a side of the grid. Bicubic without antialiasing is that of Hugging Face's ViT and DINOv2;
    `jax.image` uses a = -0.5 and antialiases, hence our own weights.
    """
    side = math.isqrt(position.shape[1])
    prefix = position.shape[1] - side * side
    if grid == (side, side):
        return position
    table = position[:, prefix:].astype(jnp.float32).reshape(side, side, -1)
    rows, columns = (weights(side, size) for size in grid)
    table = jnp.einsum("rs,ct,std->rcd", rows, columns, table)
    return jnp.concatenate([position[:, :prefix], table.reshape(1, grid[0] * grid[1], -1)], axis=1)
