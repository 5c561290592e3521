"""The towers of SigLIP and of SigLIP 2 at fixed resolution: GELU by tanh, no class token, no causal mask.

Their pooling heads are left out: P is the number of patches, and all of them are averaged. They were trained on
captions of 64 tokens that attend to their padding. Here padding is masked, as for every tower, so it changes nothing;
`siglip_padded` does as in pretraining.
"""

from collections.abc import Callable
from typing import ClassVar

from bridge_jax.models import clip, layers, vit


class VisionTower(vit.Tower):
    """A ViT without a class token."""

    prefix: ClassVar[int] = 0
    activation: ClassVar[Callable] = staticmethod(layers.gelu_tanh)


class TextTower(clip.TextTower):
    """CLIP's text Transformer with bidirectional attention."""

    causal: ClassVar[bool] = False
    activation: ClassVar[Callable] = staticmethod(layers.gelu_tanh)
