"""The image tower DINOv3: a ViT with register tokens, rotary positions of the patches and LayerScale.

It covers the released models with a plain MLP (ViT-S, ViT-B and ViT-L). No positions are stored, so `position_grid`
only states the resolution of training. All tokens are averaged, the four registers included.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from bridge_jax.models import layers, rotary, stack, vit
from bridge_jax.types import Array

REGISTERS, THETA = 4, 100.0


class Tower(vit.Tower):
    """`embed` -> `blocks(start, stop)` -> `finish`; P = class token + registers + patches of a square picture."""

    prefix: ClassVar[int] = 1 + REGISTERS
    key_bias: ClassVar[bool] = False

    def _make_positions(self) -> None:
        self.registers = self.param("registers", layers.small_init, (1, REGISTERS, self.cfg.width))

    def _place(self, x_BPD: Float[Array, "B patches D"], grid: tuple[int, int]) -> Float[Array, "B P D"]:
        del grid
        prefix = jnp.concatenate([self.class_token, self.registers], axis=1).astype(self.dtype)
        return jnp.concatenate([jnp.broadcast_to(prefix, (x_BPD.shape[0], *prefix.shape[1:])), x_BPD], axis=1)

    def blocks(self, x_BPD: Float[Array, "B P D"], start: int, stop: int, deterministic: bool) -> Float[Array, "B P D"]:
        """Run blocks `start` to `stop - 1`."""
        side = round((x_BPD.shape[1] - self.prefix) ** 0.5)
        rotation = rotation_of(side, self.cfg.width // self.cfg.heads, self.prefix)
        return stack.run_blocks(self.execution, self.layers[start:stop], x_BPD, None, rotation, deterministic)


def rotation_of(side: int, features: int, prefix: int) -> rotary.Rotation:
    """Return cosines and sines, [P,K] each, of the angles 2 pi (row, column) / THETA ** (4 k / K).

    Rows and columns are patch centres, scaled to -1..1. The angles of the prefix tokens are zero.
    """
    frequency = THETA ** -(jnp.arange(features // 4) * 4 / features)
    centre = 2 * (jnp.arange(side) + 0.5) / side - 1
    row, column = jnp.repeat(centre, side), jnp.tile(centre, side)
    angles = 2 * jnp.pi * jnp.concatenate([axis[:, None] * frequency[None] for axis in (row, column)], axis=1)
    angles = jnp.pad(jnp.tile(angles, 2), ((prefix, 0), (0, 0)))
    return jnp.cos(angles), jnp.sin(angles)
