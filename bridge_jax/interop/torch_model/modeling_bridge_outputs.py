"""Name the results of the model's methods. The shapes are those of modeling_bridge.py."""

from dataclasses import dataclass

import torch
from transformers.utils.generic import ModelOutput


@dataclass
class BridgeOutput(ModelOutput):
    """The results of `forward` for B pairs."""

    image_embeds: torch.Tensor | None = None  # [B,E], the pictures alone
    text_embeds: torch.Tensor | None = None  # [B,E], the captions alone
    fused_image_embeds: torch.Tensor | None = None  # [B,E], the pictures fused with their captions
    fused_text_embeds: torch.Tensor | None = None  # [B,E], the captions fused with their pictures
    match_logits: torch.Tensor | None = None  # [B], positive: picture and caption belong together
    image_states: torch.Tensor | None = None  # [B,P,D], finished states of the fused pass
    text_states: torch.Tensor | None = None  # [B,T,D]


@dataclass
class MatchOutput(ModelOutput):
    """The results of `match` for I images and T texts."""

    logits: torch.Tensor | None = None  # [I,T], match logits of the fused pairs
    scores: torch.Tensor | None = None  # [I,T], logits + rerank_weight x logit scale x cosine of the embeddings


@dataclass
class ZeroShotOutput(ModelOutput):
    """The results of zero-shot classification of I images by T texts."""

    logits_per_image: torch.Tensor | None = None  # [I,T], logit scale x cosine of the embeddings alone
