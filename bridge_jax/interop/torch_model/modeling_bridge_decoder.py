"""The decoder: it predicts each word from the words before it and the encoders' finished states.

Shapes: B rows, T words, L states of the encoders, W the decoder's width, N heads, V words of the vocabulary.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Scaled dot-product attention whose keys and values are computed apart from its queries."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def keys(self, x):
        """Return the keys and values [B,N,L,W/N] of the states x [B,L,W]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x, keys, mask):
        """Attend with queries from x [B,Q,W]; `mask` is bool and broadcasts to [B,N,Q,L]."""
        q = self._split(self.query(x))
        logits = (q @ keys[0].transpose(-1, -2) / q.shape[-1] ** 0.5).float().masked_fill(~mask, -1e30)
        weights = self.dropout(logits.softmax(-1)).to(q.dtype)
        return self.out((weights @ keys[1]).transpose(1, 2).flatten(2))

    def _split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Pre-norm: attention to the words before, attention to the encoders' states, and an MLP, each a residual."""

    def __init__(self, config: dict):
        super().__init__()
        width, attention = config["width"], (config["width"], config["heads"], config["dropout"])
        self.self_attention, self.cross_attention = Attention(*attention), Attention(*attention)
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width, NORM_EPS) for _ in range(3))
        self.mlp, self.dropout = Mlp(width, config["mlp_width"]), nn.Dropout(config["dropout"])

    def keys(self, states):
        """Return the keys and values of the encoders' states."""
        return self.cross_attention.keys(states)

    def forward(self, x, memory, memory_mask, before=None):
        """Run on words x [B,T,W] after those with keys and values `before`; return states, all keys and values."""
        y = self.self_norm(x)
        keys = self.self_attention.keys(y)
        if before is not None:
            keys = tuple(torch.cat(pair, 2) for pair in zip(before, keys, strict=True))
        T, L = x.shape[1], keys[0].shape[2]
        causal = torch.ones(T, L, dtype=torch.bool, device=x.device).tril(L - T)
        x = x + self.dropout(self.self_attention(y, keys, causal))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, memory_mask[:, None, None]))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), keys


class Decoder(nn.Module):
    """The whole decoder. Its output layer is the word embedding with a bias of its own."""

    def __init__(self, config: dict, image_width: int, text_width: int, vocab_size: int, length: int):
        super().__init__()
        width = config["width"]
        self.image = nn.Linear(image_width, width)
        if config["reads"] == "fused":
            self.text = nn.Linear(text_width, width)
        self.word, self.position = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["layers"]))
        self.norm, self.bias = nn.LayerNorm(width, NORM_EPS), nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(config["dropout"])

    def read(self, image, text=None):
        """Return the keys and values of the states for each block, and the states' mask. `text`: states and mask."""
        states, mask = self.image(image), image.new_ones(image.shape[:2], dtype=torch.bool)
        if text is not None:
            states, mask = torch.cat([states, self.text(text[0])], 1), torch.cat([mask, text[1]], 1)
        return [cast(Block, block).keys(states) for block in self.blocks], mask

    def forward(self, ids, memory, cache=None):
        """Return logits [B,T,V] of the word after each of `ids` [B,T], and the cache that includes `ids`."""
        start = 0 if cache is None else cache[0][0].shape[2]
        x = self.dropout(self.word(ids) + self.position.weight[start : start + ids.shape[1]])
        kept, (keys, mask) = [], memory
        for i, block in enumerate(self.blocks):
            x, block_keys = block(x, keys[i], mask, None if cache is None else cache[i])
            kept.append(block_keys)
        return F.linear(self.norm(x), self.word.weight, self.bias).float(), kept

    @torch.no_grad()
    def likelihoods(self, memory, ids, mask):
        """Return the log-likelihoods [B,A] of the answers [A,T] for every row, end token included.

        `mask` [A,T] is False on padding.
        """
        likelihoods, ids = [], ids[:, : int(mask.sum(1).amax())]
        predicted = mask[:, 1 : ids.shape[1]]
        for row in range(len(memory[1])):
            sums = []
            for words, counts in zip(ids.split(64), predicted.split(64), strict=True):
                index = torch.full((len(words),), row, device=ids.device)
                one = [tuple(x[index] for x in keys) for keys in memory[0]], memory[1][index]
                logs = self(words[:, :-1], one)[0].log_softmax(-1).gather(-1, words[:, 1:, None])[..., 0]
                sums.append(logs.masked_fill(~counts, 0.0).sum(-1))
            likelihoods.append(torch.cat(sums))
        return torch.stack(likelihoods)

    @torch.no_grad()
    def beam(self, memory, start: int, end: int, beams: int, length_penalty: float):
        """Return the best of `beams` captions for each row, [B,T]: `start`, words, and `end` up to the length.

        A caption's score is its log-likelihood / words^length_penalty. This is the search of bridge_jax, step for step.
        """
        rows, K, length = len(memory[1]), beams, self.position.num_embeddings
        every = torch.arange(rows, device=memory[1].device).repeat_interleave(K)
        memory = [tuple(x[every] for x in keys) for keys in memory[0]], memory[1][every]
        ids = torch.full((rows, K, length), end, device=every.device)
        ids[:, :, 0] = start
        live = torch.full((rows, K), -torch.inf, device=every.device)
        live[:, 0], done, done_ids, cache = 0.0, torch.full_like(live, -torch.inf), ids, None
        for position in range(length - 1):
            logits, cache = self(ids[:, :, position].reshape(-1, 1), memory, cache)
            logits = logits[:, 0]
            if position == length - 2:
                logits[:, torch.arange(logits.shape[1], device=every.device) != end] = -torch.inf
            V = logits.shape[1]
            logs, index = (live[..., None] + logits.log_softmax(-1).view(rows, K, V)).flatten(1).topk(2 * K)
            more = ids.gather(1, (index // V)[..., None].expand(-1, -1, length))
            more[:, :, position + 1] = index % V
            ends = index % V == end
            scores = torch.where(ends, logs / (position + 1) ** length_penalty, -torch.inf)
            done, best = torch.cat([done, scores], 1).topk(K)
            done_ids = torch.cat([done_ids, more], 1).gather(1, best[..., None].expand(-1, -1, length))
            live, following = torch.where(ends, -torch.inf, logs).topk(K)
            ids = more.gather(1, following[..., None].expand(-1, -1, length))
            parents = (index // V).gather(1, following) + K * torch.arange(rows, device=every.device)[:, None]
            cache = [tuple(x[parents.flatten()] for x in keys) for keys in cache]
            if not (live.amax(1) / (length - 1) ** length_penalty > done.amin(1)).any():
                break
        return done_ids[:, 0]
