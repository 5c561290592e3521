"""The text tower RoBERTa: a BERT whose positions start after that of padding, as in fairseq."""

from typing import ClassVar

from bridge_jax.config import ConfigError
from bridge_jax.models import bert


class Tower(bert.Tower):
    """BERT's blocks. The first token has position 2; position 1 belongs to padding and 0 to no token, so both are idle.

    Hugging Face numbers only real tokens. Captions are padded on the right, so real tokens get the same positions
    here. The positions of padding do not matter: nothing attends to it.
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
