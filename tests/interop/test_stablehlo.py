"""The exported programs in a fresh process without our code, against our own forward pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.data import text
from bridge_jax.interop import stablehlo, torch_export
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process
from tests import tiny as tiny_model

# A stranger's program: the lines of the folder's README, run on pictures and captions of another number each time.
STRANGER = """
import json, sys
for name in ("bridge_jax", "flax", "orbax", "ml_collections", "torch", "transformers"):
    sys.modules[name] = None
folder = sys.argv[1]
code = open(f"{folder}/README.md").read().split("```python")[1].split("```")[0].replace("FOLDER", folder)
exec(code)
inputs = np.load(sys.argv[2], allow_pickle=False)
images, ids, mask = inputs["images"], inputs["ids"], inputs["mask"]
logits, scores = match(weights, images, ids, mask)
np.savez(sys.argv[3], images=image_embedding(weights, images), texts=text_embedding(weights, ids[:2], mask[:2]),
         logits=logits, scores=scores, captions=np.array([e.ids for e in encoded]))
"""


@pytest.fixture(scope="module")
def served(run) -> Path:
    """The run's best checkpoint through the command line."""
    out = run.parent / "served"
    command = ("tools.export_stablehlo", f"--workdir={run}", f"--out={out}")
    done = process.run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: step 2 of {run}, ")
    assert done.stdout.endswith(" parameters, for cpu, cuda, tpu\n")
    again = process.run(*command)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert again.stderr.startswith(f"error: {out} exists: expected a new folder")
    return out


def test_a_stranger_computes_what_we_do(run, served, tmp_path):
    saves = Checkpoints(run, read_only=True)
    cfg, params = saves.config(2), torch_export.restore(saves, 2)
    tokenizer = text.load(cfg.data, cfg.text)
    ids, mask = tokenizer.encode(["a red circle", "a red circle left of a blue square", "A green triangle!"])
    side = cfg.vision.image_px
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    np.savez(tmp_path / "in.npz", images=images, ids=ids, mask=mask)
    clean = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-I", "-W", "error", "-c", STRANGER, str(served), "in.npz", "out.npz"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz", allow_pickle=False)

    def compute(model):
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=jnp.asarray(mask))
        return model.unimodal_image(lower.image), model.unimodal_text(lower.text, mask), model.fused(lower).itm_logit

    image_embeds, text_embeds, logits = tiny_model.apply(cfg, params, compute)
    assert np.abs(found["images"] - image_embeds).max() <= 1e-5
    assert np.abs(found["texts"] - text_embeds[:2]).max() <= 1e-5
    assert np.abs(found["logits"] - logits).max() <= 1e-4
    scale = np.exp(min(float(params["heads"]["log_scale"]), np.log(cfg.bridge.logit_scale_max)))
    scores = logits + cfg.evals["retrieval"].rerank_weight * scale * (image_embeds * text_embeds).sum(axis=1)
    assert np.abs(found["scores"] - scores).max() <= 1e-4
    np.testing.assert_array_equal(found["captions"], tokenizer.encode(["a dog", "a house"])[0])


def test_the_programs_are_for_every_platform_and_batch(served):
    assert {path.name for path in served.iterdir()} == {
        *("image_embedding.bin", "text_embedding.bin", "match.bin", "weights.safetensors", "tokenizer.json"),
        *("signature.json", "README.md"),
    }
    signature = json.loads((served / "signature.json").read_text())
    assert signature["programs"]["match"]["inputs"]["images"] == {"shape": ["b", 32, 32, 3], "dtype": "uint8"}
    assert signature["programs"]["match"]["outputs"] == [{"shape": ["b"], "dtype": "float32"}] * 2
    for name in signature["programs"]:
        program = jax.export.deserialize((served / f"{name}.bin").read_bytes())
        assert program.platforms == tuple(signature["platforms"]) == stablehlo.PLATFORMS


@pytest.mark.parametrize(
    "towers",
    [
        dict(vision=dict(tower="clip"), text=dict(tower="clip", token_types=0)),
        dict(vision=dict(tower="siglip"), text=dict(tower="roberta", token_types=1)),
        dict(vision=dict(tower="dinov3", layer_scale=True), text=dict(tower="siglip", token_types=0)),
        dict(text=dict(tower="modernbert", token_types=0)),
    ],
    ids=str,
)
def test_every_tower_has_a_program(towers):
    cfg = tiny_model.config(stage=dict(losses=("itc",)), **towers)
    params, batch = tiny_model.params(cfg), tiny_model.batch(cfg, B=3)
    (b,) = jax.export.symbolic_shape("b")
    function, _ = stablehlo.programs(cfg)["match"]
    flat = paths.flatten(params)
    inputs = [jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for x in (batch.images, batch.ids, batch.text_mask)]
    program = jax.export.export(jax.jit(function), platforms=stablehlo.PLATFORMS)(flat, *inputs)
    logits, _ = program.call(flat, batch.images, batch.ids, batch.text_mask)
    expected = tiny_model.apply(cfg, params, lambda m: m.fused(tiny_model.lower(cfg, params, batch)).itm_logit)
    assert np.abs(logits - expected).max() <= 1e-4
