"""Map our parameter paths to Hugging Face's tensor names and back; `names_authors` does so for the authors' names.

Our path is that in the whole model (`vision/block_07/attention/query/kernel`). Their name is that on disk, which keeps
the form of transformers 4.x (`encoder.layer.7.attention.attention.query.weight`) whatever a newer transformers calls it
in memory. A file may put the model's own prefix before every name (`vit.`, `bert.`, ...): see `bare_name`.
A whole exported model holds both towers under `vision_model.` and `text_model.`, and the rest under our own paths in
torch's notation: see `whole`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from bridge_jax.config import ConfigError, Text, Vision
from bridge_jax.interop import names_towers

Shape = tuple[int, ...]
Row = tuple[str, ...]  # (our name, their name, kind, dims of our array[, dims of theirs]), as in names_towers.py
Transform = Literal["copy", "transpose", "conv", "reshape"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: our `path` and `shape`, and the `name` and `stored` shape in a file."""

    path: str
    name: str
    transform: Transform
    shape: Shape
    stored: Shape

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Return a stored tensor [*stored] as our parameter [*shape]; the values are moved, never rounded."""
        if self.transform == "conv":
            array = array.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        return self._plain(array, self.shape)

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """Return our parameter [*shape] as a file's tensor [*stored]: the exact inverse of `to_ours`."""
        if self.transform == "conv":
            array = array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        return self._plain(array, self.stored)

    def _plain(self, array: np.ndarray, shape: Shape) -> np.ndarray:
        if self.transform == "transpose":
            array = array.T
        if self.transform == "reshape":
            array = array.reshape(shape)
        return np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis


VISION_TYPES = (
    *("vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "tipsv2_vision_model"),
    *("clip_vision_model", "metaclip_2_vision_model", "siglip_vision_model"),
)
TEXT_TYPES = (
    *("bert", "roberta", "xlm-roberta", "modernbert", "tipsv2_text_model"),
    *("clip_text_model", "metaclip_2_text_model", "siglip_text_model"),
)
LAYER_SCALED = ("dinov2", "dinov2_with_registers", "dinov3_vit", "tipsv2_vision_model")
_MODEL_TYPES = {  # our tower -> Hugging Face's model_type, if the names differ
    "vision": {
        "clip": "clip_vision_model",
        "open_clip": "clip_vision_model",
        "siglip": "siglip_vision_model",
        "dinov3": "dinov3_vit",
        "tipsv2": "tipsv2_vision_model",
    },
    "text": {
        "xlm_roberta": "xlm-roberta",
        "clip": "clip_text_model",
        "open_clip": "clip_text_model",
        "siglip": "siglip_text_model",
        "siglip_padded": "siglip_text_model",
        "tipsv2": "tipsv2_text_model",
    },
}


def vision(cfg: Vision, model_type: str) -> tuple[Entry, ...]:
    """Return the image tower's parameters (paths `vision/...`) under the names of `model_type`, one of VISION_TYPES.

    Raises ConfigError for another `model_type`, and if `cfg.layer_scale` does not agree with it.
    """
    _require_known("vision", model_type, VISION_TYPES)
    if cfg.layer_scale != (model_type in LAYER_SCALED):
        raise ConfigError(
            f"config.vision.layer_scale: expected {not cfg.layer_scale} for model_type {model_type!r}, "
            f"got {cfg.layer_scale}"
        )
    positions = (model_type != "siglip_vision_model") + cfg.position_grid**2
    sizes = {"D": cfg.width, "M": cfg.mlp_width, "p": cfg.patch_px, "P": positions, "Q": 3 * cfg.width}
    sizes["R"] = 1 if model_type == "tipsv2_vision_model" else 4
    entries = _expand("vision", model_type, cfg.depth, sizes)
    return tuple(e for e in entries if cfg.mask_token or e.path != "vision/mask_token")


def text(cfg: Text, model_type: str) -> tuple[Entry, ...]:
    """Return the text tower's parameters (paths `text/...`) under the names of `model_type`, one of TEXT_TYPES.

    Raises ConfigError for another `model_type`.
    """
    _require_known("text", model_type, TEXT_TYPES)
    sizes = {"D": cfg.width, "M": cfg.mlp_width, "V": cfg.vocab_size, "T": cfg.max_positions, "X": cfg.token_types}
    sizes |= {"Q": 3 * cfg.width, "G": 2 * cfg.mlp_width}
    entries = _expand("text", model_type, cfg.depth, sizes)
    lacking = "text/block_00/attention_norm/scale" if model_type == "modernbert" else ""
    return tuple(e for e in entries if e.path != lacking)


def vision_type(cfg: Vision) -> str:
    """Return Hugging Face's `model_type` of this image tower; a `vit` with LayerScale is a DINOv2."""
    if cfg.tower == "vit" and cfg.layer_scale:
        return "dinov2"
    return _MODEL_TYPES["vision"].get(cfg.tower, cfg.tower)


def text_type(cfg: Text) -> str:
    """Return Hugging Face's `model_type` of this text tower."""
    return _MODEL_TYPES["text"].get(cfg.tower, cfg.tower)


def _require_known(side: str, model_type: str, known: tuple[str, ...]) -> None:
    if model_type not in known:
        raise ConfigError(
            f"config.{side}: no name table for model_type {model_type!r}; known: {', '.join(sorted(known))}"
        )


def whole(vision_cfg: Vision, text_cfg: Text, shapes: Mapping[str, Shape]) -> tuple[Entry, ...]:
    """Return every parameter of a model under the names of an exported folder; `shapes` are our paths and shapes.

    Bridge, heads and decoder keep our paths with torch's leaf names: `bridge/layer_0/image_norm/scale` is
    `bridge.layers.0.image_norm.weight`. Parameters that only the training objective reads (`loss_weights/`) are left
    out.
    """
    towers = [
        ("vision_model", vision(vision_cfg, vision_type(vision_cfg))),
        ("text_model", text(text_cfg, text_type(text_cfg))),
    ]
    entries = [dataclasses.replace(e, name=f"{root}.{e.name}") for root, table in towers for e in table]
    for path, shape in shapes.items():
        if path.startswith(("bridge/", "heads/", "decoder/")):
            name = re.sub(r"(layer|block)_0?(\d+)", r"\1s.\2", path.replace("/", "."))
            kernel = name.endswith(".kernel")
            # only a scale with a shape belongs to a LayerNorm
            if kernel or name.endswith(".embedding") or (name.endswith(".scale") and shape):
                name = name.rpartition(".")[0] + ".weight"
            transform = "transpose" if kernel else "copy"
            entries.append(Entry(path, name, transform, shape, shape[::-1] if kernel else shape))
    return tuple(entries)


def bare_name(name: str, model_type: str) -> str:
    """Return a tensor's name without the model's prefix and with today's LayerNorm names.

    >>> bare_name("bert.encoder.layer.0.output.LayerNorm.gamma", "bert")
    'encoder.layer.0.output.LayerNorm.weight'
    """
    prefix = names_towers.PREFIXES.get(model_type, model_type)
    name = name.removeprefix(f"{prefix}.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{names_towers.OLD_NORM[m[1]]}", name)


def excused(name: str, model_type: str, mask_token: bool) -> bool:
    """Return whether a file may hold this bare name although it fills no parameter."""
    if name in ("embeddings.mask_token", "mask_token"):
        return not mask_token
    return any(re.fullmatch(pattern, name) for pattern in names_towers.EXCUSED[model_type])


def _expand(root: str, model_type: str, depth: int, sizes: dict[str, int]) -> list[Entry]:
    entries = [e for row in names_towers.STEM[model_type] for e in leaves(f"{root}/", "", sizes, row)]
    layers = names_towers.LAYERS.get(model_type, "encoder.layer")
    for i in range(depth):
        for row in names_towers.BLOCK[model_type]:
            entries += leaves(f"{root}/block_{i:02d}/", f"{layers}.{i}.", sizes, row)
    return entries


def leaves(root: str, prefix: str, sizes: dict[str, int], row: Row) -> list[Entry]:
    """Return the parameters of one row of a table, with paths under `root` and names under `prefix`.

    A kind that ends in `_only` has no bias. A name that ends in `_` gets no dot before `weight` and `bias`. `sizes`:
    the size that each letter of a shape stands for.
    """
    ours, theirs, kind, dims, *stored = row
    path, name = root + ours, prefix + theirs
    shape = _shape(dims, sizes)
    if kind == "array":
        return [Entry(path, name, "reshape" if stored else "copy", shape, _shape(stored[0] if stored else dims, sizes))]
    dotted = name if name.endswith("_") else f"{name}."
    bias = Entry(f"{path}/bias", f"{dotted}bias", "copy", shape[-1:], shape[-1:])
    kind, _, only = kind.partition("_")
    match kind:
        case "linear":
            weight = Entry(f"{path}/kernel", f"{dotted}weight", "transpose", shape, shape[::-1])
        case "conv":
            height, width, channels, features = shape
            weight = Entry(f"{path}/kernel", f"{name}.weight", "conv", shape, (features, channels, height, width))
        case "norm":
            weight = Entry(f"{path}/scale", f"{name}.weight", "copy", shape, shape)
        case "embedding":
            return [Entry(f"{path}/embedding", f"{name}.weight", "copy", shape, shape)]
        case _:
            raise AssertionError(f"unknown kind {kind!r} of {path}")
    return [weight] if only else [weight, bias]


def _shape(dims: str, sizes: dict[str, int]) -> Shape:
    return tuple(int(d) if d.isdigit() else sizes[d] for d in dims)
