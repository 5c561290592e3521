"""Two towers, with the parameter names of Hugging Face's files: ViT or DINOv2, and BERT or RoBERTa. No poolers.

Both run in three steps, `embed`, `blocks(start, stop)` and `finish`, so that the bridge can join them between blocks.
States are [B,L,D]: B rows, L tokens (the class token first), D the tower's width.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def scaled_dot_product(q, k, v, heads: int, mask, dropout: float = 0.0, rotation=None):
    """Attend with `heads` heads over [B,L,D]; `mask` is bool [B,1,1 or L,L], `rotation` two [L,D/heads]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout).transpose(1, 2).flatten(2)


def rotate(x, cosines, sines):
    """Rotate each pair (k, k + K/2) of a head's features [B,N,L,K] by its token's angle, in float32."""
    first, second = x.float().chunk(2, -1)
    return (x * cosines + torch.cat([-second, first], -1) * sines).to(x.dtype)


class SelfAttention(nn.Module):
    """Scaled dot-product self-attention before its output projection: [B,L,D] -> [B,L,D]."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, mask=None):
        """Attend within x; `mask` is bool [B,L]: keys where it is False are not attended to."""
        if mask is not None:
            mask = mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        return scaled_dot_product(self.query(x), self.key(x), self.value(x), self.heads, mask, dropout)


class Dense(nn.Module):
    """A linear map that its files call `dense`."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.dense = nn.Linear(into, out)

    def forward(self, x):
        return self.dense(x)


class DenseNorm(nn.Module):
    """norm(x + dense(y)), the end of each half of a BERT block."""

    def __init__(self, into: int, out: int, eps: float, dropout: float):
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(into, out), nn.LayerNorm(out, eps), nn.Dropout(dropout)

    def forward(self, y, x):
        return self.LayerNorm(x + self.dropout(self.dense(y)))


class LayerScale(nn.Module):
    """Multiply by a learned vector (DINOv2)."""

    def __init__(self, width: int):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.lambda1


class ViTAttention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: dict):
        super().__init__()
        width = config["hidden_size"]
        self.attention, self.output = SelfAttention(width, config["num_attention_heads"]), Dense(width, width)

    def forward(self, x):
        return self.output(self.attention(x))


class ViTBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: dict):
        super().__init__()
        width, hidden, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention, self.intermediate, self.output = (
            ViTAttention(config),
            Dense(width, hidden),
            Dense(hidden, width),
        )
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x):
        x = x + self.dropout(self.attention(self.layernorm_before(x)))
        return x + self.dropout(self.output(F.gelu(self.intermediate(self.layernorm_after(x)))))


class Dinov2Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, activation=F.gelu):
        super().__init__()
        self.fc1, self.fc2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class Dinov2Block(nn.Module):
    """As ViTBlock, each branch scaled by a learned vector."""

    def __init__(self, config: dict):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention, self.mlp = ViTAttention(config), Dinov2Mlp(width, int(width * config["mlp_ratio"]))
        self.layer_scale1, self.layer_scale2 = LayerScale(width), LayerScale(width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x):
        x = x + self.dropout(self.layer_scale1(self.attention(self.norm1(x))))
        return x + self.dropout(self.layer_scale2(self.mlp(self.norm2(x))))


class PatchEmbeddings(nn.Module):
    """Cut pixels [B,3,H,W] into patches: [B,D,rows,columns]."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixel_values):
        return self.projection(pixel_values)


class Encoder(nn.Module):
    """The blocks."""

    def __init__(self, block: type[nn.Module], config: dict):
        super().__init__()
        self.layer = nn.ModuleList(block(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x, start: int, stop: int, *mask):
        """Run blocks `start` to `stop - 1`."""
        for block in self.layer[start:stop]:
            x = block(x, *mask)
        return x


class ViTEmbeddings(nn.Module):
    """Patches, a class token, and positions resized to the picture's grid; registers, if any, have no position."""

    def __init__(self, config: dict):
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (config["image_size"] // patch) ** 2, width))
        self.patch_embeddings = PatchEmbeddings(width, patch)
        if config["use_mask_token"]:
            shape = (1, 1, width) if config["model_type"] == "vit" else (1, width)
            self.mask_token = nn.Parameter(torch.zeros(shape))
        self.registers = config["model_type"] == "dinov2_with_registers"
        if self.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config["num_register_tokens"], width))

    def forward(self, pixel_values, bool_masked_pos=None):
        x = self.patch_embeddings(pixel_values)
        grid, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            x = hide_patches(x, self.mask_token, bool_masked_pos)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + resize_positions(self.position_embeddings, grid, antialias=self.registers)
        if self.registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        return x


def hide_patches(x, mask_token, bool_masked_pos):
    """Put the mask token where `bool_masked_pos` [B,patches] is True."""
    return torch.where(bool_masked_pos[..., None], mask_token.flatten(), x)


def resize_positions(positions, grid, mode="bicubic", antialias=False):
    """Resize the square grid of positions [1,L,D] to `grid`; a class position before it is kept."""
    side = math.isqrt(positions.shape[1])
    if tuple(grid) == (side, side):
        return positions
    classes, patches = positions.split([positions.shape[1] - side * side, side * side], 1)
    square = patches.transpose(1, 2).unflatten(-1, (side, side))
    resized = F.interpolate(square.float(), size=grid, mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([classes, resized.to(square.dtype).flatten(2).transpose(1, 2)], 1)


class VisionTower(nn.Module):
    """ViT or DINOv2, the latter with or without registers, by `config["model_type"]`."""

    def __init__(self, config: dict):
        super().__init__()
        block = ViTBlock if config["model_type"] == "vit" else Dinov2Block
        self.embeddings, self.encoder = ViTEmbeddings(config), Encoder(block, config)
        self.layernorm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def embed(self, pixel_values, bool_masked_pos=None):
        """Embed normalised pixels [B,3,H,W]; patches where `bool_masked_pos` [B,L-1] is True are hidden."""
        return self.embeddings(pixel_values, bool_masked_pos)

    def blocks(self, x, start: int, stop: int):
        return self.encoder(x, start, stop)

    def finish(self, x):
        return self.layernorm(x)


class BertAttention(nn.Module):
    """Self-attention with its residual and norm."""

    def __init__(self, config: dict):
        super().__init__()
        width, dropout = config["hidden_size"], config["hidden_dropout_prob"]
        self.self = SelfAttention(width, config["num_attention_heads"], config["attention_probs_dropout_prob"])
        self.output = DenseNorm(width, width, config["layer_norm_eps"], dropout)

    def forward(self, x, mask):
        return self.output(self.self(x, mask), x)


class BertBlock(nn.Module):
    """Post-norm: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: dict):
        super().__init__()
        width, hidden, dropout = config["hidden_size"], config["intermediate_size"], config["hidden_dropout_prob"]
        self.attention, self.intermediate = BertAttention(config), Dense(width, hidden)
        self.output = DenseNorm(hidden, width, config["layer_norm_eps"], dropout)

    def forward(self, x, mask):
        x = self.attention(x, mask)
        return self.output(F.gelu(self.intermediate(x)), x)


class BertEmbeddings(nn.Module):
    """Words, positions and the first segment, added and normalised. RoBERTa's positions start after its padding's."""

    def __init__(self, config: dict):
        super().__init__()
        width = config["hidden_size"]
        self.first = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, input_ids):
        x = self.word_embeddings(input_ids) + self.position_embeddings.weight[self.first :][: input_ids.shape[1]]
        return self.dropout(self.LayerNorm(x + self.token_type_embeddings.weight[0]))


class TextTower(nn.Module):
    """BERT, RoBERTa or XLM-RoBERTa, by `config["model_type"]`."""

    def __init__(self, config: dict):
        super().__init__()
        self.embeddings, self.encoder = BertEmbeddings(config), Encoder(BertBlock, config)

    def embed(self, input_ids):
        return self.embeddings(input_ids)

    def blocks(self, x, mask, start: int, stop: int):
        return self.encoder(x, start, stop, mask)

    def finish(self, x):
        """Return x unchanged: a post-norm tower ends normalised."""
        return x
