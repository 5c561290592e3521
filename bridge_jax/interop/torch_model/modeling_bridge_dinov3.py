"""DINOv3's image tower, with the parameter names of Hugging Face's files: registers, rotary positions, LayerScale."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .modeling_bridge_towers import LayerScale, hide_patches, scaled_dot_product


class Attention(nn.Module):
    """Self-attention with its output projection; queries and keys of patches are rotated by their positions' angles."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, x, rotation):
        return self.o_proj(
            scaled_dot_product(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, None, rotation=rotation)
        )


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down_proj(F.gelu(self.up_proj(x)))


class Block(nn.Module):
    """Pre-norm, each branch scaled by a learned vector."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = Attention(width, config["num_attention_heads"])
        self.mlp = Mlp(width, config["intermediate_size"])
        self.layer_scale1, self.layer_scale2 = LayerScale(width), LayerScale(width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x, rotation):
        x = x + self.dropout(self.layer_scale1(self.attention(self.norm1(x), rotation)))
        return x + self.dropout(self.layer_scale2(self.mlp(self.norm2(x))))


class Embeddings(nn.Module):
    """A class token, registers and patches."""

    def __init__(self, config: dict):
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config["num_register_tokens"], width))
        self.patch_embeddings = nn.Conv2d(3, width, patch, patch)
        if config["use_mask_token"]:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, pixel_values, bool_masked_pos=None):
        x = self.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            x = hide_patches(x, self.mask_token, bool_masked_pos)
        prefix = torch.cat([self.cls_token, self.register_tokens], 1)
        return torch.cat([prefix.expand(x.shape[0], -1, -1), x], 1)


class Dinov3Tower(nn.Module):
    """DINOv3 on square pictures."""

    def __init__(self, config: dict):
        super().__init__()
        self.features = config["hidden_size"] // config["num_attention_heads"]
        self.prefix, self.theta = 1 + config["num_register_tokens"], config["rope_theta"]
        self.embeddings = Embeddings(config)
        self.layer = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def embed(self, pixel_values, bool_masked_pos=None):
        """Embed normalised pixels [B,3,H,W]; patches where `bool_masked_pos` [B,patches] is True are hidden."""
        return self.embeddings(pixel_values, bool_masked_pos)

    def blocks(self, x, start: int, stop: int):
        """Run blocks `start` to `stop - 1`."""
        rotation = self._rotation(round((x.shape[1] - self.prefix) ** 0.5), x.device)
        for block in self.layer[start:stop]:
            x = block(x, rotation)
        return x

    def finish(self, x):
        return self.norm(x)

    def _rotation(self, side: int, device):
        """Return cosines and sines [L,features] of the angles 2 pi (row, column) / theta ** (4 k / features)."""
        frequency = self.theta ** -(torch.arange(self.features // 4, device=device) * 4 / self.features)
        centre = 2 * (torch.arange(side, device=device) + 0.5) / side - 1
        row, column = centre.repeat_interleave(side), centre.repeat(side)
        angles = 2 * math.pi * torch.cat([axis[:, None] * frequency for axis in (row, column)], 1)
        angles = F.pad(angles.repeat(1, 2), (0, 0, self.prefix, 0))  # the prefix is not rotated
        return angles.cos(), angles.sin()
