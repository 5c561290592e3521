"""The interaction layer: where the two towers' hidden states meet.

Shapes: B rows, L tokens of one side, M of the other, S the shared width, N heads.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_bridge import BridgeConfig
from .modeling_bridge_towers import SelfAttention


class CosineAttention(nn.Module):
    """Queries [B,L,S] of one side over keys [B,M,S] of the other: cosines / tau + a learned position bias."""

    def __init__(self, width: int, heads: int, queries: int, keys: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.tau = nn.Parameter(torch.zeros(()))  # through softplus
        self.position_bias = nn.Parameter(torch.zeros(queries, keys))

    def forward(self, x, other, other_mask):
        """Attend from x to `other`; `other_mask` is bool [B,M]: tokens where it is False are not attended to."""
        q, k = self._normalised(x, other)
        bias = self.position_bias[: x.shape[1], : other.shape[1]]  # a caption may come without its padding
        logits = q @ k.transpose(-1, -2) / F.softplus(self.tau.float()) + bias.float()
        if other_mask is not None:
            logits = logits.masked_fill(~other_mask[:, None, None, :], -1e30)
        v = self._split(self.value(other))
        weights = self.dropout(logits.softmax(-1)).to(v.dtype)
        return self.out((weights @ v).transpose(1, 2).flatten(2))

    def cosines(self, x, other):
        """Return the cosines of queries and keys, averaged over the heads: [B,L,M]."""
        q, k = self._normalised(x, other)
        return (q @ k.transpose(-1, -2)).mean(1)

    def _normalised(self, x, other):
        return normalise(self._split(self.query(x))), normalise(self._split(self.key(other)))

    def _split(self, x):
        """Split the heads: [B,L,S] -> [B,N,L,S/N]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PooledExchange(nn.Module):
    """Every token receives the other side's mean (design "pooled")."""

    def __init__(self, width: int):
        super().__init__()
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, other, other_mask):
        return self.out(self.value(pool(other, other_mask).to(x.dtype)))[:, None]


class SharedSelfAttention(SelfAttention):
    """Self-attention in the shared width, with its output projection (design "self_cross")."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__(width, heads, dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask=None):
        return self.out(super().forward(x, mask))


class Interaction(nn.Module):
    """H_t + g_t A_t W_t and H_v + g_v A_v W_v, where A is attention of each side over the other in the width S."""

    def __init__(self, config: BridgeConfig):
        super().__init__()
        width, heads, dropout = config.shared_width, config.bridge_heads, config.interaction_attention_dropout
        image, text = config.vision_config["hidden_size"], config.text_config["hidden_size"]
        patches = (config.image_size // config.vision_config["patch_size"]) ** 2
        tokens = image_prefix(config.vision_config) + patches
        self.image_norm, self.text_norm = nn.LayerNorm(image), nn.LayerNorm(text)
        self.image_to_shared, self.text_to_shared = nn.Linear(image, width), nn.Linear(text, width)
        self.self_cross = config.design == "self_cross"
        if self.self_cross:
            self.image_self_norm, self.text_self_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.image_self_attention = SharedSelfAttention(width, heads, dropout)
            self.text_self_attention = SharedSelfAttention(width, heads, dropout)
        if config.design == "pooled":
            self.text_over_image, self.image_over_text = PooledExchange(width), PooledExchange(width)
        else:
            self.text_over_image = CosineAttention(width, heads, config.text_length, tokens, dropout)
            self.image_over_text = CosineAttention(width, heads, tokens, config.text_length, dropout)
        self.shared_to_image, self.shared_to_text = nn.Linear(width, image), nn.Linear(width, text)
        self.image_gate, self.text_gate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))  # sigmoid
        self.dropout = nn.Dropout(config.interaction_output_dropout)

    def forward(self, image, text, mask):
        """Update both sides' states; `mask` is bool [B,T], False on padding."""
        z_v, z_t = self._shared(image, text, mask)
        a_t, a_v = self.text_over_image(z_t, z_v, None), self.image_over_text(z_v, z_t, mask)
        image = image + self.image_gate.sigmoid() * self.dropout(self.shared_to_image(a_v))
        text = text + self.text_gate.sigmoid() * self.dropout(self.shared_to_text(a_t))
        return image, text

    def token_similarity(self, image, text, mask):
        """Return the similarity [B] of the tokens of each pair.

        It is the mean of two means: each real word's cosine with its nearest patch, and each patch's with its nearest
        real word.
        """
        z_v, z_t = self._shared(image, text, mask)
        text_over_image, image_over_text = self.text_over_image, self.image_over_text
        assert isinstance(text_over_image, CosineAttention)
        assert isinstance(image_over_text, CosineAttention)
        words, patches = text_over_image.cosines(z_t, z_v), image_over_text.cosines(z_v, z_t)
        nearest = patches.masked_fill(~mask[:, None], -1.0).amax(-1)
        return (pool(words.amax(-1)[..., None], mask)[:, 0] + nearest.mean(-1)) / 2

    def _shared(self, image, text, mask):
        z_v, z_t = self.image_to_shared(self.image_norm(image)), self.text_to_shared(self.text_norm(text))
        if self.self_cross:
            z_v = z_v + self.image_self_attention(self.image_self_norm(z_v))
            z_t = z_t + self.text_self_attention(self.text_self_norm(z_t), mask)
        return z_v, z_t


class Bridge(nn.Module):
    """The interaction layers, one for each pair of blocks after which the towers meet."""

    def __init__(self, config: BridgeConfig):
        super().__init__()
        self.layers = nn.ModuleList(Interaction(config) for _ in config.image_after)


def image_prefix(config: dict) -> int:
    """Return the number of image tokens before the patches: a class token and registers; SigLIP has none."""
    if config["model_type"] == "siglip_vision_model":
        return 0
    registered = config["model_type"] in ("dinov2_with_registers", "dinov3_vit", "tipsv2_vision_model")
    return 1 + (config["num_register_tokens"] if registered else 0)


def normalise(x):
    """Scale the last axis to length one, in float32."""
    return F.normalize(x.float(), dim=-1, eps=1e-6)


def pool(states, mask):
    """Average states [B,L,D] over the tokens where `mask` [B,L] is True, in float32."""
    if mask is None:
        return states.float().mean(1)
    weight = mask[..., None].float()
    return (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
