"""The towers of OpenCLIP, and of any CLIP or MetaCLIP 2 whose file says `gelu`: CLIP's, with the exact GELU."""

from collections.abc import Callable
from typing import ClassVar

from bridge_jax.models import clip, layers


class VisionTower(clip.VisionTower):
    """CLIP's image tower with another activation."""

    activation: ClassVar[Callable] = staticmethod(layers.gelu)


class TextTower(clip.TextTower):
    """CLIP's causal text tower with another activation."""

    activation: ClassVar[Callable] = staticmethod(layers.gelu)
