"""The text tower: RoBERTa. A BERT whose positions start behind that of padding, as fairseq numbered them."""

from typing import ClassVar

from bridge_jax.config import ConfigError
from bridge_jax.models import bert


class Tower(bert.Tower):
    """BERT's blocks; the first token has position 2 (1 is padding's, 0 nobody's), so two stored positions are idle.

    Hugging Face numbers real tokens alone. Captions are padded on the right, so real tokens get the same positions
    here, and those of padding do not matter: nothing attends to it.
    """

    first_position: ClassVar[int] = 2

    def setup(self):
        last = self.first_position + self.cfg.length
        if last > self.cfg.max_positions:
            raise ConfigError(
                f"config.text.length {self.cfg.length} exceeds the {self.cfg.max_positions - self.first_position} "
                f"positions that max_positions {self.cfg.max_positions} leaves to a RoBERTa's tokens"
            )
        super().setup()
