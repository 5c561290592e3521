"""Tiny Hugging Face folders written from numpy: what the import must take, and the ways in which it can be wrong."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridge_jax.config import Text, Vision
from bridge_jax.interop import names

VISION = Vision(
    tower="vit",
    depth=2,
    width=8,
    heads=2,
    mlp_width=16,
    patch_px=4,
    image_px=12,
    position_grid=3,
    layer_scale=False,
    mask_token=False,
    norm_eps=1e-12,
    dropout=0.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrained="",
)
TEXT = Text(
    tower="bert",
    depth=2,
    width=8,
    heads=2,
    mlp_width=16,
    vocab_size=20,
    max_positions=10,
    token_types=2,
    length=7,
    norm_eps=1e-12,
    dropout=0.1,
    pretrained="",
)
COMMON = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
}
CONFIGS = {
    "vit": COMMON | {"model_type": "vit", "image_size": 12, "patch_size": 4, "num_channels": 3, "qkv_bias": True},
    "dinov2": COMMON | {"model_type": "dinov2", "image_size": 12, "patch_size": 4, "mlp_ratio": 2},
    "bert": COMMON
    | {"model_type": "bert", "vocab_size": 20, "max_position_embeddings": 10, "type_vocab_size": 2}
    | {"position_embedding_type": "absolute"},
}


class Folder:
    """A model folder to spoil: change `config` and `tensors`, then `write`."""

    def __init__(self, path: Path, model_type: str, entries: tuple[names.Entry, ...]):
        self.path, self.config = path, dict(CONFIGS[model_type])
        draw = np.random.default_rng(0)
        self.tensors = {e.name: draw.normal(size=e.stored).astype(np.float32) for e in entries}

    def write(self) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, self.path / "model.safetensors")
        return self.path


@pytest.fixture
def make_folder(tmp_path) -> Callable[..., Folder]:
    return functools.partial(Folder, tmp_path)


@pytest.fixture
def vit_folder(make_folder) -> Folder:
    return make_folder("vit", names.vision(VISION, "vit"))


@pytest.fixture
def bert_folder(make_folder) -> Folder:
    return make_folder("bert", names.text(TEXT, "bert"))


@pytest.fixture
def vision() -> Vision:
    return VISION


@pytest.fixture
def text() -> Text:
    return TEXT
