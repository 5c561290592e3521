"""The text tower of SigLIP and SigLIP 2 as it was pretrained: words attend to the padding, in captions of full length.

The tower `siglip` reads the same files and masks the padding. In both, only real words are averaged and meet the image.
"""

from jaxtyping import Bool, Float

from bridge_jax.config import ConfigError
from bridge_jax.models import siglip, stack
from bridge_jax.types import Array


class TextTower(siglip.TextTower):
    """SigLIP's text Transformer without a mask."""

    def setup(self):
        if self.cfg.length != self.cfg.max_positions:
            raise ConfigError(
                f"config.text.length is {self.cfg.length}; siglip_padded was pretrained on captions padded to "
                f"{self.cfg.max_positions} tokens: set it to that, or take the tower 'siglip', which masks the padding"
            )
        super().setup()

    def blocks(
        self, x_BTD: Float[Array, "B T D"], mask_BT: Bool[Array, "B T"], start: int, stop: int, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Run blocks `start` to `stop - 1`; padding is attended to as words are."""
        del mask_BT
        return stack.run_blocks(self.execution, self.layers[start:stop], x_BTD, None, None, deterministic)
