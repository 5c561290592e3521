"""TIPSv2's towers, with the parameter names of its files: one product for queries, keys and values in each block."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .modeling_bridge_towers import hide_patches, resize_positions, scaled_dot_product


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation):
        super().__init__()
        self.c_fc, self.c_proj, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x):
        return self.c_proj(self.activation(self.c_fc(x)))


class ImageAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(scaled_dot_product(q, k, v, self.heads, None))


class Scale(nn.Module):
    """Multiply by a learned vector."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class ImageBlock(nn.Module):
    """Pre-norm, each branch scaled by a learned vector."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = ImageAttention(width, config["num_attention_heads"])
        self.mlp = Mlp(width, int(width * config["mlp_ratio"]), F.gelu)
        self.ls1, self.ls2 = Scale(width), Scale(width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x):
        x = x + self.dropout(self.ls1(self.attn(self.norm1(x))))
        return x + self.dropout(self.ls2(self.mlp(self.norm2(x))))


class ImageBlocks(nn.ModuleList):
    """The blocks, under the name that they have in the files."""

    def forward(self, x, start: int, stop: int):
        """Run blocks `start` to `stop - 1`."""
        for i in range(start, stop):
            x = self[i](x)
        return x


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class Tipsv2VisionTower(nn.Module):
    """A class token, a register and patches; positions resized to the picture's grid."""

    def __init__(self, config: dict):
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config["num_register_tokens"], width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (config["image_size"] // patch) ** 2, width))
        if config["use_mask_token"]:
            self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = ImageBlocks(ImageBlock(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.LayerNorm(width, config["layer_norm_eps"])

    def embed(self, pixel_values, bool_masked_pos=None):
        """Embed normalised pixels [B,3,H,W]; patches where `bool_masked_pos` [B,patches] is True are hidden."""
        x = self.patch_embed.proj(pixel_values)
        grid, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            x = hide_patches(x, self.mask_token, bool_masked_pos)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + resize_positions(self.pos_embed, grid, "bilinear", antialias=True)
        return torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], 1)

    def finish(self, x):
        return self.norm(x)


class TextAttention(nn.Module):
    """Self-attention with its output projection, the parameters named as in torch's MultiheadAttention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, mask):
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        return self.out_proj(scaled_dot_product(q, k, v, self.heads, mask))


class TextBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = TextAttention(width, config["num_attention_heads"])
        self.mlp = Mlp(width, config["intermediate_size"], F.relu)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x, mask):
        x = x + self.dropout(self.attn(self.ln_1(x), mask))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class TextBlocks(nn.Module):
    """The blocks, under the name that they have in the files."""

    def __init__(self, config: dict):
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(config) for _ in range(config["num_hidden_layers"]))


class Tipsv2TextTower(nn.Module):
    """Word embeddings scaled by sqrt(D), positions of sines and cosines; every word attends to all words."""

    def __init__(self, config: dict):
        super().__init__()
        self.width = config["hidden_size"]
        self.token_embedding, self.transformer = nn.Embedding(config["vocab_size"], self.width), TextBlocks(config)
        self.ln_final = nn.LayerNorm(self.width, config["layer_norm_eps"])

    def embed(self, input_ids):
        words, half = self.token_embedding(input_ids) * math.sqrt(self.width), self.width // 2
        frequency = 10_000.0 ** -(torch.arange(half, device=words.device) / (half - 1))
        angles = torch.arange(input_ids.shape[1], device=words.device)[:, None] * frequency
        return words + torch.cat([angles.sin(), angles.cos()], 1).to(words.dtype)

    def blocks(self, x, mask, start: int, stop: int):
        """Run blocks `start` to `stop - 1`; `mask` is bool [B,T], False on padding."""
        mask = None if mask is None else mask[:, None, None, :]
        for block in self.transformer.resblocks[start:stop]:
            x = block(x, mask)
        return x

    def finish(self, x):
        return self.ln_final(x)
