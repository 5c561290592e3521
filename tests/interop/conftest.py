"""Tiny Hugging Face folders written from numpy, with the ways in which they can be wrong; and a run, exported."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bridge_jax import config
from bridge_jax.config import Text, Vision
from bridge_jax.interop import names, torch_export
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.log import RunLog
from tests.tiny import params as random_params

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


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory) -> Path:
    """A workdir with the checkpoints of steps 2 and 4, the first with the better score, and the run's log."""
    settings = tiny(depth=2)
    settings.loss_weighting = "learnable"
    cfg = config.parse(settings)
    params = random_params(cfg)
    workdir = tmp_path_factory.mktemp("export") / "run"
    saves = Checkpoints(workdir)
    for step, rsum in ((2, 90.0), (4, 80.0)):
        saves.save(step, "align", params, None, cfg, fused_trained=True)
        saves.score(step, {"stage_index": 1.0, "unimodal_rsum": rsum})
    saves.close()
    table = {"r@1": 71.42, "r@1_low": 66.9, "r@1_high": 76.0, "r@5": 90.0, "r@10": 95.0, "median_rank": 1.0}
    with RunLog(workdir) as log:
        log.write(2, {f"eval/unimodal/text_to_image/{name}": value / 2 for name, value in table.items()})
        log.write(4, {f"final/val/rerank/image_to_text/{name}": value for name, value in table.items()})
    return workdir


@pytest.fixture(scope="session")
def exported(run) -> Path:
    """The run's best checkpoint, exported."""
    out = run.parent / "exported"
    assert torch_export.export(Checkpoints(run, read_only=True), 2, str(out)) > 0
    return out
