"""The heads: four projections, the match head, and the heads of single losses.

Shapes: B rows, L tokens, D a tower's width, E the width of an embedding.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_bridge import BridgeConfig
from .modeling_bridge_interaction import normalise


class Projection(nn.Module):
    """Map pooled states to an embedding of length one."""

    def __init__(self, width: int, embed_width: int):
        super().__init__()
        self.linear = nn.Linear(width, embed_width)

    def forward(self, pooled):
        return normalise(self.linear(pooled.to(self.linear.weight.dtype)))


class MatchHead(nn.Module):
    """The match logit: scale x (cosine - threshold) plus an MLP on [p_t ; p_v ; cosine]."""

    def __init__(self, embed_width: int):
        super().__init__()
        self.scale, self.threshold = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        self.hidden, self.out = nn.Linear(2 * embed_width + 1, embed_width), nn.Linear(embed_width, 1)

    def forward(self, text, image):
        cosine = (text * image).sum(-1)
        joined = torch.cat([text, image, cosine[:, None]], -1).to(self.hidden.weight.dtype)
        return self.scale * (cosine - self.threshold) + self.out(F.relu(self.hidden(joined)))[:, 0]


class TokenMatch(nn.Module):
    """The tokens' term of the match logit: scale x (similarity - threshold)."""

    def __init__(self, scale_max: float):
        super().__init__()
        self.log_scale, self.threshold = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.scale_max = scale_max

    def forward(self, similarity):
        return self.log_scale.float().exp().clamp(max=self.scale_max) * (similarity - self.threshold)


class MaskedHead(nn.Module):
    """Predict masked words or patches from their states: linear, LayerNorm, GELU, linear."""

    def __init__(self, width: int, target_width: int):
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, target_width)

    def forward(self, states):
        return self.out(F.gelu(self.norm(self.hidden(states))))


class Classifier(nn.Module):
    """Map features of a pair to a logit for each class: two hidden layers, each with LayerNorm, GELU and dropout."""

    def __init__(self, width: int, hidden: int, classes: int):
        super().__init__()
        self.hidden_0, self.norm_0 = nn.Linear(width, hidden), nn.LayerNorm(hidden)
        self.hidden_1, self.norm_1 = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.out, self.dropout = nn.Linear(hidden, classes), nn.Dropout(0.1)

    def forward(self, pooled):
        states = self.dropout(F.gelu(self.norm_0(self.hidden_0(pooled.to(self.out.weight.dtype)))))
        return self.out(self.dropout(F.gelu(self.norm_1(self.hidden_1(states)))))


class LogitBias(nn.Module):
    """The bias of the sigmoid loss: the logit of a pair is scale x cosine + bias."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))


class Heads(nn.Module):
    """Four projections, the match head, the contrastive scale, and the checkpoint's other heads."""

    def __init__(self, config: BridgeConfig):
        super().__init__()
        image, text = config.vision_config["hidden_size"], config.text_config["hidden_size"]
        self.unimodal_image, self.fused_image = (Projection(image, config.embed_width) for _ in range(2))
        self.unimodal_text, self.fused_text = (Projection(text, config.embed_width) for _ in range(2))
        self.itm = MatchHead(config.embed_width)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.mlm = MaskedHead(text, config.text_config["vocab_size"]) if config.mlm_head else None
        self.mim = MaskedHead(image, config.mim_width) if config.mim_width else None
        answers = len(config.id2label or {})
        self.vqa = Classifier(text + image, config.shared_width, answers) if config.vqa_head else None
        width = config.pictures * (text + image + config.embed_width)
        self.nlvr2 = Classifier(width, config.shared_width, 1) if config.pictures else None
        for name, (features, classes) in config.classifiers.items():
            setattr(self, name, Classifier(features, config.shared_width, classes))
        self.sigmoid = LogitBias() if config.sigmoid_head else None
        self.token_itc = TokenMatch(config.logit_scale_max) if config.token_itc_head else None
