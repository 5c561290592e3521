"""The image tower: a Vision Transformer with a class token, pre-norm blocks and a final LayerNorm.

Serves Hugging Face's `vit` and, with LayerScale, `dinov2`; the plain ViT pooler is not part of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bridge_jax.config import Blocks, Vision
from bridge_jax.models import layers


class LayerScale(nn.Module):
    """Multiply by a learned vector (DINOv2)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.ones_init(), (x.shape[-1],)).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm: `x + attention(norm(x))`, then `x + mlp(norm(x))`, each branch scaled where LayerScale is on."""

    cfg: Vision
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BPD: Float[Array, "B P D"], deterministic: bool) -> Float[Array, "B P D"]:
        cfg, dtype = self.cfg, self.dtype
        y = layers.layer_norm(cfg.norm_eps, dtype, "attention_norm")(x_BPD)
        y = layers.SelfAttention(cfg.heads, dtype, name="attention")(y, None, deterministic)
        y = LayerScale(name="attention_scale")(y) if cfg.layer_scale else y
        x_BPD = x_BPD + layers.Dropout(cfg.dropout)(y, deterministic=deterministic)
        y = layers.layer_norm(cfg.norm_eps, dtype, "mlp_norm")(x_BPD)
        y = layers.Mlp(cfg.mlp_width, dtype, name="mlp")(y)
        y = LayerScale(name="mlp_scale")(y) if cfg.layer_scale else y
        return x_BPD + layers.Dropout(cfg.dropout)(y, deterministic=deterministic)


class Tower(nn.Module):
    """`embed` -> `blocks(start, stop)` -> `finish`; states are [B,P,D] all the way, P = 1 + patches."""

    cfg: Vision
    dtype: jnp.dtype
    run: Blocks = Blocks(scan=False, remat=False)

    def setup(self):
        cfg, token = self.cfg, layers.small_init
        patch = (cfg.patch_px, cfg.patch_px)
        self.patch = nn.Conv(cfg.width, patch, strides=patch, dtype=self.dtype, kernel_init=layers.kernel_init)
        self.class_token = self.param("class_token", token, (1, 1, cfg.width))
        self.position = self.param("position", _sincos, (1, 1 + cfg.position_grid**2, cfg.width))
        if cfg.mask_token:
            self.mask_token = self.param("mask_token", token, (1, 1, cfg.width))
        self.layers = [Block(cfg, self.dtype, name=f"block_{i:02d}") for i in range(cfg.depth)]
        self.norm = layers.layer_norm(cfg.norm_eps, self.dtype)

    def embed(
        self, pixels: Float[Array, "B H W 3"], masked: Bool[Array, "B patches"] | None = None
    ) -> Float[Array, "B P D"]:
        """Cut normalised pixels into patches, prepend the class token, add positions resized to this resolution.

        Where `masked` is True the patch is replaced by the mask token (MIM) before the position is added.
        """
        x = self.patch(pixels.astype(self.dtype))
        B, rows, columns, D = x.shape
        x_BPD = x.reshape(B, rows * columns, D)
        if masked is not None:
            x_BPD = jnp.where(masked[..., None], self.mask_token.astype(self.dtype), x_BPD)
        class_B1D = jnp.broadcast_to(self.class_token, (B, 1, D)).astype(self.dtype)
        x_BPD = jnp.concatenate([class_B1D, x_BPD], axis=1)
        return x_BPD + resize_positions(self.position, (rows, columns)).astype(self.dtype)

    def blocks(self, x_BPD: Float[Array, "B P D"], start: int, stop: int, deterministic: bool) -> Float[Array, "B P D"]:
        """Run blocks `start` to `stop - 1`."""
        return layers.run_blocks(self.run, self.layers[start:stop], x_BPD, deterministic)

    def finish(self, x_BPD: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        """Apply the final LayerNorm."""
        return self.norm(x_BPD)


def _sincos(key: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "1 L D"]:
    """Start the learned positions as sines and cosines of row and column (Beyer et al. 2022, arXiv 2205.01580).

    With the usual noise of 0.02 a tower trained from random weights hardly sees where anything is: its patches start
    twenty times as large. Pretrained towers overwrite it. The class token starts at zero.
    """
    del key
    side, width = round((shape[1] - 1) ** 0.5), shape[2]
    frequency = 10_000.0 ** -(jnp.arange(width // 4) / max(1, width // 4 - 1))
    row, column = jnp.divmod(jnp.arange(side * side), side)
    angles = [axis[:, None] * frequency for axis in (row, column)]
    table = jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=1)
    table = jnp.pad(table, ((1, 0), (0, width - table.shape[1])))
    return table[None]


def resize_positions(position: Float[Array, "1 L D"], grid: tuple[int, int]) -> Float[Array, "1 P D"]:
    """Resize the square grid of patch positions to `grid` rows and columns; the class position is kept.

    Bicubic with a = -0.75 and no antialiasing, which is torch's `interpolate(mode="bicubic", antialias=False)`
    and what Hugging Face's ViT and DINOv2 do. `jax.image` uses a = -0.5 and antialiases, hence our own weights.
    """
    side = round((position.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return position
    table = position[:, 1:].astype(jnp.float32).reshape(side, side, -1)
    rows, columns = (_cubic_weights(side, size) for size in grid)
    table = jnp.einsum("rs,ct,std->rcd", rows, columns, table)
    return jnp.concatenate([position[:, :1], table.reshape(1, grid[0] * grid[1], -1)], axis=1)


def _cubic_weights(old: int, new: int) -> Float[Array, "new old"]:
    """Return the matrix that resamples `old` samples to `new`, half-pixel centres, borders repeated, a = -0.75."""
    a = -0.75
    centre = (jnp.arange(new) + 0.5) * (old / new) - 0.5
    first = jnp.floor(centre)
    weights = jnp.zeros((new, old))
    for offset in range(-1, 3):
        x = jnp.abs(centre - (first + offset))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        index = jnp.clip(first + offset, 0, old - 1).astype(int)
        weights = weights.at[jnp.arange(new), index].add(jnp.where(x <= 1, near, far))
    return weights
