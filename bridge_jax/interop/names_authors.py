"""Map our parameter paths to the tensor names of the BRIDGE authors' checkpoints and back (docs/method.md 7.1).

Their model is ours with placement `after` and design `cross`, except at its ends: it pools the last block's *input*
projections, so the fused projections read the shared width; its match head has two outputs; both towers have poolers,
which nothing reads; and a learned scalar mixes the two contrastive losses. These parameters have paths of their own
here: `vision/pooler`, `text/pooler`, `heads/alpha`, and `heads/fused_*` and `heads/itm` with shapes that differ from
our model's.
"""

import dataclasses

from bridge_jax.config import Bridge, Text, Vision
from bridge_jax.interop import names
from bridge_jax.interop.names import Entry, Row, Shape

# Rows as in names_towers.py. Letters: v t widths of the towers, S shared width, E embedding width, J inputs of the
# match head, V words of the vocabulary, P T tokens of the image and of the text. No letter: a scalar.
_POOLER = {"vision": "vv", "text": "tt"}
_LAYER = (
    ("image_norm", "vision_norm", "norm", "v"),
    ("text_norm", "text_norm", "norm", "t"),
    ("image_to_shared", "vision_to_shared", "linear", "vS"),
    ("text_to_shared", "text_to_shared", "linear", "tS"),
    ("text_over_image/query", "Q_text", "linear", "SS"),
    ("text_over_image/key", "K_vision_to_text", "linear", "SS"),
    ("text_over_image/value", "V_vision_to_text", "linear", "SS"),
    ("text_over_image/out", "O_text", "linear", "SS"),
    ("image_over_text/query", "Q_vision", "linear", "SS"),
    ("image_over_text/key", "K_text_to_vision", "linear", "SS"),
    ("image_over_text/value", "V_text_to_vision", "linear", "SS"),
    ("image_over_text/out", "O_vision", "linear", "SS"),
    ("shared_to_text", "shared_to_text", "linear", "St"),
    ("shared_to_image", "shared_to_vision", "linear", "Sv"),
    ("text_over_image/tau", "tau_text_param", "array", ""),
    ("image_over_text/tau", "tau_vision_param", "array", ""),
    ("text_gate", "gate_text_bias", "array", ""),
    ("image_gate", "gate_vision_bias", "array", ""),
)
_POSITION_BIAS = (
    ("text_over_image/position_bias", "bias_text_from_vision", "array", "TP"),
    ("image_over_text/position_bias", "bias_vision_from_text", "array", "PT"),
)
_HEADS = (
    ("fused_image/linear", "vision_pool_proj_cross", "linear", "SE"),
    ("fused_text/linear", "text_pool_proj_cross", "linear", "SE"),
    ("unimodal_image/linear", "vision_pool_proj_uni", "linear", "vE"),
    ("unimodal_text/linear", "text_pool_proj_uni", "linear", "tE"),
    ("mlm/hidden", "mlm_head.0", "linear", "tt"),
    ("mlm/norm", "mlm_head.1", "norm", "t"),
    ("mlm/out", "mlm_head.3", "linear", "tV"),
    ("mim/hidden", "mim_head.0", "linear", "vv"),
    ("mim/norm", "mim_head.1", "norm", "v"),
    ("mim/out", "mim_head.3", "linear", "vv"),
    ("itm/hidden", "itm_head.0", "linear", "JE"),
    ("itm/out", "itm_head.3", "linear", "E2"),
    ("log_scale", "logit_scale", "array", ""),
    ("alpha", "itc_alpha", "array", ""),
)


def entries(vision: Vision, text: Text, bridge: Bridge) -> tuple[Entry, ...]:
    """Return the authors' full state dict without the position biases, which their first forward pass creates.

    It has the published counts: 236,217,670, 250,398,030 and 264,578,390 parameters at Q = 2, 4, 6 (ViT-B/16 at 224,
    BERT-base, S 768, E 256). Both poolers are part of it. The MIM head predicts features [D_v], as in their code: the
    counts alone cannot tell, since the 3 x 16 x 16 pixels of a patch are 768 too.

    Raises ConfigError for a tower with LayerScale: their image tower is Hugging Face's plain ViTModel.
    """
    sizes = _sizes(vision, text, bridge)
    towers = {
        "vision": ("vision_encoder.vit.", names.vision(dataclasses.replace(vision, mask_token=False), "vit")),
        "text": ("text_encoder.bert.", names.text(text, "bert")),
    }
    table: list[Entry] = []
    for root, (prefix, tower) in towers.items():
        table += [dataclasses.replace(entry, name=prefix + entry.name) for entry in tower]
        table += names.leaves(f"{root}/", prefix, sizes, ("pooler", "pooler.dense", "linear", _POOLER[root]))
    table += _layers(_LAYER, bridge, sizes)
    return (*table, *(leaf for row in _HEADS for leaf in names.leaves("heads/", "", sizes, row)))


def position_biases(vision: Vision, text: Text, bridge: Bridge) -> tuple[Entry, ...]:
    """Return the position biases, [T,P] and [P,T] of every layer."""
    return tuple(_layers(_POSITION_BIAS, bridge, _sizes(vision, text, bridge)))


def layout(vision: Vision, text: Text, bridge: Bridge) -> dict[str, Shape]:
    """Return tensor name -> stored shape of `entries`."""
    return {entry.name: entry.stored for entry in entries(vision, text, bridge)}


def _layers(rows: tuple[Row, ...], bridge: Bridge, sizes: dict[str, int]) -> list[Entry]:
    return [
        leaf
        for i in range(bridge.layers)
        for row in rows
        for leaf in names.leaves(f"bridge/layer_{i}/", f"interaction_layers.{i}.", sizes, row)
    ]


def _sizes(vision: Vision, text: Text, bridge: Bridge) -> dict[str, int]:
    E, P = bridge.embed_width, 1 + (vision.image_px // vision.patch_px) ** 2
    tokens = {"P": P, "T": text.length}
    return tokens | {
        "v": vision.width,
        "t": text.width,
        "S": bridge.shared_width,
        "E": E,
        "J": 2 * E + 1,
        "V": text.vocab_size,
    }
