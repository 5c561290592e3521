"""Convert a tower's Hugging Face config.json to our config sections and back, with one table for both directions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bridge_jax.config import Config, ConfigError, Text, Vision
from bridge_jax.interop import names
from bridge_jax.models import modernbert

# Our key -> theirs. image_size, patch_size and the mlp_ratio of DINOv2 are not plain copies: see `vision_values`.
_SIZES = {
    "depth": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "norm_eps": "layer_norm_eps",
}
_WORDS = {"vocab_size": "vocab_size", "max_positions": "max_position_embeddings", "token_types": "type_vocab_size"}
_BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face: the tower that it fills, and the keys of its config.json."""

    tower: str  # module of bridge_jax/models
    keys: Mapping[str, str]  # our key -> theirs
    # The only values that the tower is built for. A missing key means Hugging Face's default, which is this value.
    fixed: Mapping[str, Any]
    dropout: tuple[str, ...]  # keys of the dropout rate; the first is read, all are written
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # values of keys that a file may leave out
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys of our section that a file lacks
    # depth -> the settings of `fixed` under the keys of newer files. Read, never written.
    reworded: Callable[[int], Mapping[str, Any]] = lambda depth: {}
    # `hidden_act` -> tower, where the activation decides which; else `tower` is the only one.
    by_activation: Mapping[str, str] = dataclasses.field(default_factory=dict)


_NO_DROPOUT = {"hidden_dropout_prob": 0.0}  # not a key of their files: their towers drop nothing, ours may
_PAIR = _NO_DROPOUT | {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_CLIP = _PAIR | {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
_CLIP_TOWERS = {"quick_gelu": "clip", "gelu": "open_clip"}
_DROPOUT, _BERT_DROPOUT = ("hidden_dropout_prob",), ("hidden_dropout_prob", "attention_probs_dropout_prob")
_PLAIN_WORDS = {ours: theirs for ours, theirs in _WORDS.items() if ours != "token_types"}
_VIT_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}
_RATIO_SIZES = {ours: theirs for ours, theirs in _SIZES.items() if ours != "mlp_width"}  # they state mlp_ratio instead


def _modernbert_reworded(depth: int) -> dict[str, Any]:
    thetas = {"full_attention": modernbert.THETA_GLOBAL, "sliding_attention": modernbert.THETA_LOCAL}
    return {
        "layer_types": [list(thetas)[i % modernbert.GLOBAL_EVERY > 0] for i in range(depth)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
    }


VISION_FAMILIES = {
    "vit": Family("vit", _SIZES, _VIT_FIXED, _DROPOUT),
    "dinov2": Family("vit", _RATIO_SIZES, _VIT_FIXED | {"use_swiglu_ffn": False}, _DROPOUT),
    "dinov2_with_registers": Family(
        "dinov2_with_registers",
        _RATIO_SIZES,
        _VIT_FIXED | {"use_swiglu_ffn": False, "num_register_tokens": 4},
        _DROPOUT,
    ),
    "clip_vision_model": Family(
        "clip",
        _SIZES,
        {"num_channels": 3},
        _DROPOUT,
        defaults=_CLIP | {"image_size": 224, "patch_size": 32},
        by_activation=_CLIP_TOWERS,
    ),
    "siglip_vision_model": Family(
        "siglip",
        _SIZES,
        {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
        _DROPOUT,
        defaults=_PAIR | {"layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 16},
    ),
    "dinov3_vit": Family(
        "dinov3",
        _SIZES,
        {
            "hidden_act": "gelu",
            "num_channels": 3,
            "use_gated_mlp": False,
            "query_bias": True,
            "key_bias": False,
            "value_bias": True,
            "proj_bias": True,
            "mlp_bias": True,
            "num_register_tokens": 4,
            "rope_theta": 100.0,
        },
        _DROPOUT,
        defaults=_NO_DROPOUT,
    ),
    "tipsv2_vision_model": Family(
        "tipsv2",
        _RATIO_SIZES,
        _VIT_FIXED | {"use_swiglu_ffn": False, "num_register_tokens": 1},
        _DROPOUT,
        defaults=_PAIR | {"mlp_ratio": 4, "layer_norm_eps": 1e-6, "image_size": 448, "patch_size": 14},
    ),
}
TEXT_FAMILIES = {
    "bert": Family("bert", _SIZES | _WORDS, _BERT_FIXED, _BERT_DROPOUT),
    "roberta": Family("roberta", _SIZES | _WORDS, _BERT_FIXED | {"pad_token_id": 1}, _BERT_DROPOUT),
    "xlm-roberta": Family("xlm_roberta", _SIZES | _WORDS, _BERT_FIXED | {"pad_token_id": 1}, _BERT_DROPOUT),
    "clip_text_model": Family(
        "clip",
        _SIZES | _PLAIN_WORDS,
        {},
        _DROPOUT,
        defaults=_CLIP
        | {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
        | {"vocab_size": 49408, "max_position_embeddings": 77},
        constants={"token_types": 0},
        by_activation=_CLIP_TOWERS,
    ),
    "siglip_text_model": Family(
        "siglip",
        _SIZES | _PLAIN_WORDS,
        {"hidden_act": "gelu_pytorch_tanh"},
        _DROPOUT,
        defaults=_PAIR | {"layer_norm_eps": 1e-6, "vocab_size": 32000, "max_position_embeddings": 64},
        constants={"token_types": 0},
    ),
    "tipsv2_text_model": Family(
        "tipsv2",
        _SIZES | _PLAIN_WORDS,
        {"hidden_act": "relu", "scale_sqrt_depth": True},
        _DROPOUT,
        defaults=_PAIR | {"layer_norm_eps": 1e-5, "vocab_size": 32000, "max_position_embeddings": 64},
        constants={"token_types": 0},
    ),
    "modernbert": Family(
        "modernbert",
        _SIZES | _PLAIN_WORDS | {"norm_eps": "norm_eps"},
        {
            "hidden_activation": "gelu",
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "global_attn_every_n_layers": modernbert.GLOBAL_EVERY,
            "local_attention": 2 * modernbert.REACH,
            "global_rope_theta": modernbert.THETA_GLOBAL,
            "local_rope_theta": modernbert.THETA_LOCAL,
        },
        ("embedding_dropout", "attention_dropout", "mlp_dropout"),
        constants={"token_types": 0},
        reworded=_modernbert_reworded,
    ),
}
for _side, _families in (("vision", VISION_FAMILIES), ("text", TEXT_FAMILIES)):
    _families[f"metaclip_2_{_side}_model"] = _families[f"clip_{_side}_model"]
SAME_FILES = {"siglip": "siglip_padded"}  # tower -> another tower that reads its files
PAIRS = {  # models of two towers, whose config.json holds a config for each
    "clip": {"vision": "clip_vision_model", "text": "clip_text_model"},
    "siglip": {"vision": "siglip_vision_model", "text": "siglip_text_model"},
    "metaclip_2": {"vision": "metaclip_2_vision_model", "text": "metaclip_2_text_model"},
    "tipsv2": {"vision": "tipsv2_vision_model", "text": "tipsv2_text_model"},
}


def tower_config(config: Mapping[str, Any], side: str, source: Any) -> dict[str, Any]:
    """Return the config of one tower: `config` itself, or the part for `side` of one of PAIRS.

    Keys that the file may leave out get Hugging Face's defaults. Raises ConfigError naming a key that is missing.
    """
    file = f"{source}/config.json"
    model_type = key_of(config, "model_type", file)
    if model_type in PAIRS:
        model_type = PAIRS[model_type][side]
        config = {"model_type": model_type} | dict(key_of(config, f"{side}_config", file))
    families = VISION_FAMILIES | TEXT_FAMILIES
    return (dict(families[model_type].defaults) if model_type in families else {}) | dict(config)


def vision_values(config: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """Return the `config.vision` keys and values that an image tower's config.json implies.

    Raises ConfigError naming a key that is missing or has a value that the tower is not built for.
    """
    file = f"{source}/config.json"
    model_type, family = _family(config, VISION_FAMILIES, "image", file)
    image_px, patch_px = (_square(config, key, file) for key in ("image_size", "patch_size"))
    values = _values(config, family, file)
    if family.keys == _RATIO_SIZES:
        values["mlp_width"] = int(values["width"] * key_of(config, "mlp_ratio", file))
    return values | {
        "patch_px": patch_px,
        "position_grid": image_px // patch_px,
        "layer_scale": model_type in names.LAYER_SCALED,
    }


def text_values(config: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """Return the `config.text` keys and values that a text tower's config.json implies.

    Raises ConfigError as `vision_values` does.
    """
    file = f"{source}/config.json"
    return _values(config, _family(config, TEXT_FAMILIES, "text", file)[1], file)


def dropout(config: Mapping[str, Any], source: Any) -> float:
    """Return the dropout rate in a tower's config.json."""
    family = (VISION_FAMILIES | TEXT_FAMILIES)[config["model_type"]]
    return float(key_of(config, family.dropout[0], f"{source}/config.json"))


def vision_config(cfg: Config) -> dict[str, Any]:
    """Return Hugging Face's config of the image tower; its `image_size` is that of the stored position grid."""
    vision, model_type = cfg.vision, names.vision_type(cfg.vision)
    config = _config(vision, model_type, VISION_FAMILIES[model_type]) | {
        "image_size": vision.patch_px * vision.position_grid,
        "patch_size": vision.patch_px,
        "use_mask_token": vision.mask_token,
    }
    if model_type in ("vit", "dinov2", "dinov2_with_registers", "tipsv2_vision_model"):
        config["attention_probs_dropout_prob"] = 0.0
    if model_type == "siglip_vision_model":
        config["vision_use_head"] = False
    if VISION_FAMILIES[model_type].keys == _RATIO_SIZES:
        ratio = vision.mlp_width / vision.width
        config["mlp_ratio"] = int(ratio) if ratio == int(ratio) else ratio
    return config


def text_config(cfg: Config) -> dict[str, Any]:
    """Return Hugging Face's config of the text tower."""
    model_type = names.text_type(cfg.text)
    config = _config(cfg.text, model_type, TEXT_FAMILIES[model_type])
    if cfg.text.tower == "siglip_padded":
        config["attend_padding"] = True
    return {key: value for key, value in config.items() if key not in ("position_embedding_type", "is_decoder")}


def key_of(config: Mapping[str, Any], key: str, file: str) -> Any:
    """Return the value of a key in a config.json. Raises ConfigError, naming `file`, if it is missing."""
    if key not in config:
        raise ConfigError(f"{file}: key {key!r} is missing; add the value that the model's documentation gives")
    return config[key]


def _family(config: Mapping[str, Any], families: Mapping[str, Family], tower: str, file: str) -> tuple[str, Family]:
    model_type = key_of(config, "model_type", file)
    if model_type not in families:
        known = " or ".join(repr(name) for name in families)
        raise ConfigError(f"{file}: model_type {model_type!r} cannot fill the {tower} tower; expected {known}")
    family = families[model_type]
    reworded = family.reworded(key_of(config, family.keys["depth"], file))
    for key, value in (dict(family.fixed) | dict(reworded)).items():
        if key in config and config[key] != value:
            raise ConfigError(f"{file}: {key} is {config[key]!r}; the {tower} tower is built for {value!r} only")
    if family.by_activation and (activation := key_of(config, "hidden_act", file)) not in family.by_activation:
        built = " or ".join(repr(name) for name in family.by_activation)
        raise ConfigError(f"{file}: hidden_act is {activation!r}; the {tower} tower is built for {built} only")
    return model_type, family


def _values(config: Mapping[str, Any], family: Family, file: str) -> dict[str, Any]:
    read = {ours: key_of(config, theirs, file) for ours, theirs in family.keys.items()}
    tower = family.by_activation[config["hidden_act"]] if family.by_activation else family.tower
    return {"tower": tower} | read | dict(family.constants)


def _config(section: Vision | Text, model_type: str, family: Family) -> dict[str, Any]:
    sizes = {theirs: getattr(section, ours) for ours, theirs in family.keys.items()}
    rates = dict.fromkeys(family.dropout, section.dropout)
    activations = [{"hidden_act": name} for name, tower in family.by_activation.items() if tower == section.tower]
    return {"model_type": model_type} | sizes | dict(family.fixed) | (activations[0] if activations else {}) | rates


def _square(config: Mapping[str, Any], key: str, file: str) -> int:
    value = key_of(config, key, file)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ConfigError(f"{file}: {key} is {value!r}; the image tower needs a square")
    return sides.pop()
