"""The image tower DINOv2 with registers (arXiv 2309.16588): four more tokens between the class token and the patches.

It covers the released models with a plain MLP (ViT-S, ViT-B and ViT-L). All tokens are averaged, the registers
included. Positions are resized with antialiasing, those of DINOv2 without.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from bridge_jax.models import layers, resample, vit
from bridge_jax.types import Array


class Tower(vit.Tower):
    """`embed` -> `blocks(start, stop)` -> `finish`; P = class token + registers + patches."""

    prefix: ClassVar[int] = 1 + 4

    def _make_positions(self) -> None:
        super()._make_positions()
        self.registers = self.param("registers", layers.small_init, (1, self.prefix - 1, self.cfg.width))

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 P D"]:
        return vit.resize_positions(self.position, grid, resample.antialiased_cubic)

    def _place(self, x_BPD: Float[Array, "B patches D"], grid: tuple[int, int]) -> Float[Array, "B P D"]:
        """Prepend the class token, add the positions, and insert the registers, which have none."""
        x_BPD = super()._place(x_BPD, grid)
        registers = jnp.broadcast_to(self.registers, (x_BPD.shape[0], *self.registers.shape[1:])).astype(self.dtype)
        return jnp.concatenate([x_BPD[:, :1], registers, x_BPD[:, 1:]], axis=1)
