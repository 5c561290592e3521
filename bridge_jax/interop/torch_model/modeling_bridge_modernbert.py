"""ModernBERT's text tower, with the parameter names of Hugging Face's files: rotary positions, GeGLU, local windows."""

import torch
import torch.nn.functional as F
from torch import nn

from .modeling_bridge_towers import scaled_dot_product


class Attention(nn.Module):
    """Self-attention from one product for queries, keys and values, without biases."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.Wqkv, self.Wo = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask, rotation):
        q, k, v = self.Wqkv(x).chunk(3, -1)
        out = scaled_dot_product(q, k, v, self.heads, mask, self.rate if self.training else 0.0, rotation)
        return self.dropout(self.Wo(out))


class GatedMlp(nn.Module):
    """GeGLU: down(gelu(a) * b), a and b the halves of the first product."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.Wi, self.Wo = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        a, b = self.Wi(x).chunk(2, -1)
        return self.Wo(self.dropout(F.gelu(a) * b))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x)); the first block's attention has no norm."""

    def __init__(self, config: dict, index: int):
        super().__init__()
        width, eps = config["hidden_size"], config["norm_eps"]
        self.attn_norm = nn.LayerNorm(width, eps, bias=False) if index else nn.Identity()
        self.attn = Attention(width, config["num_attention_heads"], config["attention_dropout"])
        self.mlp_norm = nn.LayerNorm(width, eps, bias=False)
        self.mlp = GatedMlp(width, config["intermediate_size"], config["mlp_dropout"])

    def forward(self, x, mask, rotation):
        x = x + self.attn(self.attn_norm(x), mask, rotation)
        return x + self.mlp(self.mlp_norm(x))


class Embeddings(nn.Module):
    """Words, normalised."""

    def __init__(self, config: dict):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.norm = nn.LayerNorm(config["hidden_size"], config["norm_eps"], bias=False)
        self.dropout = nn.Dropout(config["embedding_dropout"])

    def forward(self, input_ids):
        return self.dropout(self.norm(self.tok_embeddings(input_ids)))


class ModernBertTower(nn.Module):
    """Global blocks attend to all words, local ones to those at most half of `local_attention` away."""

    def __init__(self, config: dict):
        super().__init__()
        self.features = config["hidden_size"] // config["num_attention_heads"]
        self.reach = config["local_attention"] // 2
        self.every, self.theta = config["global_attn_every_n_layers"], config["global_rope_theta"]
        self.local_theta = config["local_rope_theta"]
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config["num_hidden_layers"]))
        self.final_norm = nn.LayerNorm(config["hidden_size"], config["norm_eps"], bias=False)

    def embed(self, input_ids):
        return self.embeddings(input_ids)

    def blocks(self, x, mask, start: int, stop: int):
        """Run blocks `start` to `stop - 1`; `mask` is bool [B,T], False on padding."""
        position = torch.arange(x.shape[1], device=x.device)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        mask = mask[:, None, None, :]
        near = (position[:, None] - position).abs() <= self.reach
        for index in range(start, stop):
            is_global = index % self.every == 0
            rotation = self._rotation(position, self.theta if is_global else self.local_theta)
            x = self.layers[index](x, mask if is_global else mask & near, rotation)
        return x

    def finish(self, x):
        return self.final_norm(x)

    def _rotation(self, position, theta: float):
        """Return cosines and sines [T,features] of the angles position / theta ** (2 k / features)."""
        frequency = theta ** -(torch.arange(0, self.features, 2, device=position.device) / self.features)
        angles = (position[:, None] * frequency).repeat(1, 2)
        return angles.cos(), angles.sin()
