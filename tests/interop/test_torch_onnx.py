"""The ONNX graphs in onnxruntime against the PyTorch model that they come from, on batches of other sizes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.data.text import Tokenizer
from bridge_jax.interop import torch_export, torch_onnx
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.workdir.meta import Meta
from tests import process, tiny

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "house", *"bcdefghijklm"]
TOWERS = {
    "vit_bert": {},
    "registers_xlm_roberta": dict(  # whose positions are resized with antialiasing
        vision=dict(tower="dinov2_with_registers", layer_scale=True, position_grid=3),
        text=dict(tower="xlm_roberta", token_types=1),
    ),
    "clip": dict(vision=dict(tower="clip"), text=dict(tower="clip", token_types=0)),
    "siglip": dict(vision=dict(tower="siglip"), text=dict(tower="siglip", token_types=0)),
    "dinov3": dict(vision=dict(tower="dinov3", layer_scale=True)),
    "modernbert": dict(text=dict(tower="modernbert", token_types=0)),
}


def exported(folder: Path, **towers) -> Path:
    cfg = tiny.config(stage=dict(losses=("itc",)), **towers)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    meta = Meta(schema=SCHEMA, step=1, stage="train", config=as_dict(cfg))
    tokenizer = Tokenizer(vocabulary, cfg.text.length)
    torch_export.write(folder / "exported", cfg, tiny.params(cfg), meta, tokenizer, "")
    return folder / "exported"


def run(file: Path, **inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


@pytest.mark.parametrize("name", TOWERS)
def test_onnxruntime_computes_what_pytorch_does(tmp_path, name):
    folder = exported(tmp_path, **TOWERS[name])
    torch_onnx.export(folder, tmp_path / "onnx")
    model = BridgeModel.from_pretrained(folder)
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(30).reshape(5, 6) % 15 + 5
    mask = (torch.arange(6) < torch.tensor([[6], [1], [3], [5], [2]])).long()
    with torch.no_grad():
        images, texts = model.get_image_features(pixels).numpy(), model.get_text_features(ids, mask).numpy()
    assert np.abs(run(tmp_path / "onnx/image_embedding.onnx", pixel_values=pixels) - images).max() <= 1e-5
    found = run(tmp_path / "onnx/text_embedding.onnx", input_ids=ids, attention_mask=mask)
    assert np.abs(found - texts).max() <= 1e-5
    other = torch.where(mask == 1, ids, 7)
    assert np.abs(run(tmp_path / "onnx/text_embedding.onnx", input_ids=other, attention_mask=mask) - found).max() == 0


def test_large_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_onnx, "MOST_BYTES", 0)
    torch_onnx.export(exported(tmp_path), tmp_path / "onnx")
    assert (tmp_path / "onnx/image_embedding.onnx.data").stat().st_size > 10_000
    assert run(tmp_path / "onnx/image_embedding.onnx", pixel_values=torch.zeros(1, 3, 8, 8)).shape == (1, 16)


def export_onnx(*arguments):
    return process.run("tools.export_onnx", *arguments)


def test_the_command_and_the_lines_of_its_readme(tmp_path, monkeypatch):
    folder, out = exported(tmp_path), tmp_path / "onnx"
    done = export_onnx(folder, f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out}: the embeddings of {folder} as ONNX\n"
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    code = (out / "README.md").read_text().split("```python")[1].split("```")[0].replace("FOLDER", str(out))
    names: dict = {}
    exec(code, names)
    assert (names["images"] @ names["texts"].T).shape == (1, 2)
    again = export_onnx(folder, f"--out={out}")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "config.json").write_text('{"model_type": "vit"}')
    other = export_onnx(tower, f"--out={tmp_path / 'other'}")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == f"error: {tower}: expected a folder that tools.export_pytorch wrote, got another model\n"
    assert not (tmp_path / "other").exists()
