"""The tower of each `model_type` of Hugging Face."""

from .modeling_bridge_clip import ClipTextTower, ClipVisionTower
from .modeling_bridge_dinov3 import Dinov3Tower
from .modeling_bridge_modernbert import ModernBertTower
from .modeling_bridge_tipsv2 import Tipsv2TextTower, Tipsv2VisionTower
from .modeling_bridge_towers import TextTower, VisionTower

VISION_TOWERS = {
    "vit": VisionTower,
    "dinov2": VisionTower,
    "dinov2_with_registers": VisionTower,
    "clip_vision_model": ClipVisionTower,
    "siglip_vision_model": ClipVisionTower,
    "dinov3_vit": Dinov3Tower,
    "tipsv2_vision_model": Tipsv2VisionTower,
}
TEXT_TOWERS = {
    "bert": TextTower,
    "roberta": TextTower,
    "xlm-roberta": TextTower,
    "clip_text_model": ClipTextTower,
    "siglip_text_model": ClipTextTower,
    "modernbert": ModernBertTower,
    "tipsv2_text_model": Tipsv2TextTower,
}
