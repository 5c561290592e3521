"""Make every kind of tower twice: from a tiny section of our config, and as Hugging Face's torch model of that size."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
import transformers

from bridge_jax.config import Text, Vision
from bridge_jax.interop import hf_import
from bridge_jax.models.towers import tower_class

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

WIDTH, HEADS, MLP = 32, 4, 64
SIZES = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": MLP, "attn_implementation": "eager"}
TEXT = Text(
    tower="bert",
    depth=2,
    width=WIDTH,
    heads=HEADS,
    mlp_width=MLP,
    vocab_size=60,
    max_positions=14,
    token_types=2,
    length=7,
    norm_eps=1e-12,
    dropout=0.0,
    pretrained="",
)
VISION = Vision(
    tower="vit",
    depth=2,
    width=WIDTH,
    heads=HEADS,
    mlp_width=MLP,
    patch_px=4,
    image_px=20,
    position_grid=5,
    layer_scale=False,
    mask_token=False,
    norm_eps=1e-12,
    dropout=0.0,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    pretrained="",
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One `model_type` of Hugging Face."""

    section: Vision | Text  # our config of the tower
    config: str  # names of their classes
    model: str
    block: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys of their config besides the sizes

    @property
    def side(self) -> str:
        """The tower's name in the model, "text" or "vision"."""
        return "text" if isinstance(self.section, Text) else "vision"

    def torch_model(self) -> torch.nn.Module:
        """Return their model, every parameter drawn at random: scales around one, so that a missing scale shows."""
        section, settings = self.section, dict(SIZES, num_hidden_layers=self.section.depth)
        if isinstance(section, Text):
            settings |= {"vocab_size": section.vocab_size, "max_position_embeddings": section.max_positions}
        else:
            settings |= {"image_size": section.patch_px * section.position_grid, "patch_size": section.patch_px}
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**settings | dict(self.settings)))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            around = 1.0 if parameter.ndim == 1 and not name.endswith("bias") else 0.0
            parameter.data = around + 0.2 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    def tower(self) -> Any:
        """Return our module."""
        return tower_class(self.side, self.section.tower)(self.section, jnp.dtype("float32"))

    def params(self, model: torch.nn.Module, folder: Path) -> dict:
        """Save their `model` to `folder`, and return its parameters as ours, read from there."""
        model.save_pretrained(folder)
        if isinstance(self.section, Text):
            return hf_import.text_params(folder, self.section)
        return hf_import.vision_params(folder, self.section)

    def run(self, params: dict, *inputs: jax.Array) -> jax.Array:
        """Return the finished states of our whole tower on pixels, or on ids and their mask."""

        def forward(tower, *inputs):
            if isinstance(self.section, Text):
                ids, mask = inputs
                return tower.finish(tower.blocks(tower.embed(ids, True), mask, 0, self.section.depth, True))
            return tower.finish(tower.blocks(tower.embed(*inputs), 0, self.section.depth, True))

        return self.tower().apply({"params": params}, *inputs, method=forward)


KINDS = {
    "vit": Kind(VISION, "ViTConfig", "ViTModel", "ViTLayer"),
    "dinov2": Kind(
        dataclasses.replace(VISION, layer_scale=True, mask_token=True, norm_eps=1e-6),
        "Dinov2Config",
        "Dinov2Model",
        "Dinov2Layer",
        dict(mlp_ratio=2),
    ),
    "dinov2_with_registers": Kind(
        dataclasses.replace(VISION, tower="dinov2_with_registers", layer_scale=True, mask_token=True, norm_eps=1e-6),
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersLayer",
        dict(mlp_ratio=2),
    ),
    "bert": Kind(TEXT, "BertConfig", "BertModel", "BertLayer"),
    "roberta": Kind(
        dataclasses.replace(TEXT, tower="roberta", token_types=1, norm_eps=1e-5),
        "RobertaConfig",
        "RobertaModel",
        "RobertaLayer",
        dict(type_vocab_size=1, layer_norm_eps=1e-5),
    ),
    "xlm-roberta": Kind(
        dataclasses.replace(TEXT, tower="xlm_roberta", token_types=1, norm_eps=1e-5),
        "XLMRobertaConfig",
        "XLMRobertaModel",
        "XLMRobertaLayer",
        dict(type_vocab_size=1, layer_norm_eps=1e-5),
    ),
    "clip_vision_model": Kind(
        dataclasses.replace(VISION, tower="clip", norm_eps=1e-5),
        "CLIPVisionConfig",
        "CLIPVisionModel",
        "CLIPEncoderLayer",
    ),
    "siglip_vision_model": Kind(
        dataclasses.replace(VISION, tower="siglip", norm_eps=1e-6),
        "SiglipVisionConfig",
        "SiglipVisionModel",
        "SiglipEncoderLayer",
    ),
    "dinov3_vit": Kind(
        dataclasses.replace(VISION, tower="dinov3", layer_scale=True, mask_token=True, norm_eps=1e-5),
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        "DINOv3ViTLayer",
        dict(num_register_tokens=4),
    ),
    "tipsv2_vision_model": Kind(
        dataclasses.replace(VISION, tower="tipsv2", layer_scale=True, mask_token=True, norm_eps=1e-6),
        "Tipsv2VisionConfig",
        "Tipsv2VisionModel",
        "Tipsv2VisionLayer",
        dict(mlp_ratio=2),
    ),
    "tipsv2_text_model": Kind(
        dataclasses.replace(TEXT, tower="tipsv2", token_types=0, norm_eps=1e-5),
        "Tipsv2TextConfig",
        "Tipsv2TextModel",
        "Tipsv2TextEncoderLayer",
    ),
    "clip_text_model": Kind(
        dataclasses.replace(TEXT, tower="clip", token_types=0, norm_eps=1e-5),
        "CLIPTextConfig",
        "CLIPTextModel",
        "CLIPEncoderLayer",
    ),
    "siglip_text_model": Kind(
        dataclasses.replace(TEXT, tower="siglip", token_types=0, norm_eps=1e-6),
        "SiglipTextConfig",
        "SiglipTextModel",
        "SiglipEncoderLayer",
    ),
    "modernbert": Kind(
        dataclasses.replace(TEXT, tower="modernbert", depth=5, token_types=0, norm_eps=1e-5),
        "ModernBertConfig",
        "ModernBertModel",
        "ModernBertEncoderLayer",
        dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
    ),
}
TEXT_KINDS = [name for name, kind in KINDS.items() if kind.side == "text"]
VISION_KINDS = [name for name, kind in KINDS.items() if kind.side == "vision"]
