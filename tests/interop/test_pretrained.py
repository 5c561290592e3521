"""The real towers on real photos and captions: imported, they give torch's last_hidden_state."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image

from bridge_jax.config import Text, Vision
from bridge_jax.interop import hf_import
from bridge_jax.models import bert, vit
from configs import common

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHARED = Path(__file__).resolve().parents[3] / "shared"
DINOV2, MINILM, FLICKR8K = SHARED / "weights/dinov2_small", SHARED / "weights/minilm_l6", SHARED / "data/flickr8k"


def need(*folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            pytest.skip(
                f"../shared/{folder.relative_to(SHARED)} is absent: real weights and photos are not in the repo"
            )


def test_dinov2_small_equals_torch_on_photos():
    need(DINOV2, FLICKR8K)
    cfg = Vision(**common.dinov2("small", image_px=112).to_dict())
    files = sorted((FLICKR8K / "images").glob("*.jpg"))[:4]
    photos = [np.asarray(Image.open(file).convert("RGB").resize((112, 112)), np.float32) / 255 for file in files]
    pixels = ((np.stack(photos) - cfg.mean) / cfg.std).astype(np.float32)
    model = transformers.Dinov2Model.from_pretrained(DINOV2, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()

    def run(tower, pixels):
        return tower.finish(tower.blocks(tower.embed(pixels), 0, cfg.depth, True))

    params = hf_import.vision_params(DINOV2, cfg)
    tower = vit.Tower(cfg, jnp.dtype("float32"))
    got = jax.jit(lambda params, pixels: tower.apply({"params": params}, pixels, method=run))(params, pixels)
    assert got.shape == (4, 65, 384)
    assert np.abs(expected[0] - expected[1]).max() > 1
    assert np.abs(got - expected).max() < 1e-4


def test_minilm_equals_torch_on_captions():
    need(MINILM, FLICKR8K)
    cfg = Text(**common.minilm(length=30).to_dict())
    images = json.loads((FLICKR8K / "dataset_flickr8k.json").read_text())["images"][:8]
    tokenizer = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.enable_padding(length=30)
    tokenizer.enable_truncation(30)
    encodings = tokenizer.encode_batch([image["sentences"][0]["raw"] for image in images])
    ids = np.array([encoding.ids for encoding in encodings])
    mask = np.array([encoding.attention_mask for encoding in encodings])
    assert 0 < mask.mean() < 1
    model = transformers.BertModel.from_pretrained(MINILM, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()

    def run(tower, ids, mask):
        return tower.finish(tower.blocks(tower.embed(ids, True), mask, 0, cfg.depth, True))

    params = hf_import.text_params(MINILM, cfg)
    tower, real = bert.Tower(cfg, jnp.dtype("float32")), mask.astype(bool)
    got = np.asarray(
        jax.jit(lambda *inputs: tower.apply({"params": inputs[0]}, *inputs[1:], method=run))(params, ids, real)
    )
    assert np.abs(out[0] - out[1])[real[0] & real[1]].max() > 0.5
    assert np.abs(got - out)[real].max() < 1e-4
