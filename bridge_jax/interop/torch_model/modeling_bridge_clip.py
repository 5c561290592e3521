"""CLIP's and SigLIP's towers, with the parameter names of Hugging Face's files. No projections, no pooling heads.

SigLIP has no class token and no causal mask, and other activations; CLIP normalises its image tokens at the start.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .modeling_bridge_towers import Dinov2Mlp, hide_patches, resize_positions, scaled_dot_product


def activation(config: dict):
    """Return the activation that `hidden_act` names."""
    if config["hidden_act"] == "quick_gelu":
        return lambda x: x * torch.sigmoid(1.702 * x)
    return F.gelu if config["hidden_act"] == "gelu" else lambda x: F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, mask=None):
        return self.out_proj(scaled_dot_product(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = Attention(width, config["num_attention_heads"])
        self.mlp = Dinov2Mlp(width, config["intermediate_size"], activation(config))
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x, mask=None):
        x = x + self.dropout(self.self_attn(self.layer_norm1(x), mask))
        return x + self.dropout(self.mlp(self.layer_norm2(x)))


class Blocks(nn.Module):
    """The blocks, under the name that they have in the files."""

    def __init__(self, config: dict):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x, start: int, stop: int, mask=None):
        """Run blocks `start` to `stop - 1`."""
        for block in self.layers[start:stop]:
            x = block(x, mask)
        return x


class ImageEmbeddings(nn.Module):
    """Patches, CLIP's class token, and positions resized to the picture's grid."""

    def __init__(self, config: dict):
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        is_clip = config["model_type"] == "clip_vision_model"
        if is_clip:
            self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=not is_clip)
        self.position_embedding = nn.Embedding(is_clip + (config["image_size"] // patch) ** 2, width)
        if config["use_mask_token"]:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, pixel_values, bool_masked_pos=None):
        x = self.patch_embedding(pixel_values)
        grid, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            x = hide_patches(x, self.mask_token, bool_masked_pos)
        if hasattr(self, "class_embedding"):
            x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], 1)
        return x + resize_positions(self.position_embedding.weight[None], grid)


class ClipVisionTower(nn.Module):
    """CLIP's or SigLIP's image tower, by `config["model_type"]`."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings, self.encoder = ImageEmbeddings(config), Blocks(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps) if config["model_type"] == "clip_vision_model" else nn.Identity()
        self.post_layernorm = nn.LayerNorm(width, eps)

    def embed(self, pixel_values, bool_masked_pos=None):
        """Embed normalised pixels [B,3,H,W]; patches where `bool_masked_pos` [B,patches] is True are hidden."""
        return self.pre_layrnorm(self.embeddings(pixel_values, bool_masked_pos))

    def blocks(self, x, start: int, stop: int):
        return self.encoder(x, start, stop)

    def finish(self, x):
        return self.post_layernorm(x)


class TextEmbeddings(nn.Module):
    """Words and positions."""

    def __init__(self, config: dict):
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])

    def forward(self, input_ids):
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class ClipTextTower(nn.Module):
    """CLIP's text tower, whose tokens see only themselves and earlier ones, or SigLIP's, by `config["model_type"]`."""

    def __init__(self, config: dict):
        super().__init__()
        self.causal = config["model_type"] == "clip_text_model"
        self.padded_to = config["max_position_embeddings"] if "attend_padding" in config else 0
        self.embeddings, self.encoder = TextEmbeddings(config), Blocks(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def embed(self, input_ids):
        """Embed ids [B,T]. Raises ValueError where words attend to padding and it is not all there."""
        if self.padded_to and input_ids.shape[1] != self.padded_to:
            raise ValueError(
                f"input_ids: {input_ids.shape[1]} tokens, but this text tower attends to its padding and needs "
                f"{self.padded_to}: pad with padding='max_length'"
            )
        return self.embeddings(input_ids)

    def blocks(self, x, mask, start: int, stop: int):
        """Run blocks `start` to `stop - 1`; `mask` is bool [B,T], False on padding."""
        if self.padded_to:
            return self.encoder(x, start, stop)
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        mask = mask[:, None, None, :]
        return self.encoder(
            x, start, stop, mask & mask.new_ones(x.shape[1], x.shape[1]).tril() if self.causal else mask
        )

    def finish(self, x):
        return self.final_layer_norm(x)
