"""The public names of the config: `parse` turns a ConfigDict into checked, frozen dataclasses."""

from bridge_jax.config.checks import check as check
from bridge_jax.config.checks import parse as parse
from bridge_jax.config.convert import ConfigError as ConfigError
from bridge_jax.config.convert import nearest as nearest
from bridge_jax.config.convert import require as require
from bridge_jax.config.convert import require_one_of as require_one_of
from bridge_jax.config.keys import BadSteps as BadSteps
from bridge_jax.config.keys import Blocks as Blocks
from bridge_jax.config.keys import Bridge as Bridge
from bridge_jax.config.keys import Checkpoint as Checkpoint
from bridge_jax.config.keys import Config as Config
from bridge_jax.config.keys import Data as Data
from bridge_jax.config.keys import Decoder as Decoder
from bridge_jax.config.keys import Mesh as Mesh
from bridge_jax.config.keys import Mining as Mining
from bridge_jax.config.keys import Rules as Rules
from bridge_jax.config.keys import Stage as Stage
from bridge_jax.config.keys import Text as Text
from bridge_jax.config.keys import Vision as Vision
