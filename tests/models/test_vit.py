"""The image tower against Hugging Face's torch ViT and DINOv2, with every parameter drawn at random."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bridge_jax import paths
from bridge_jax.config import Vision
from bridge_jax.interop import hf_import
from bridge_jax.models import vit

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

GRID, PATCH, WIDTH, DEPTH = 5, 4, 32, 2
COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "image_size": GRID * PATCH,
    "patch_size": PATCH,
    "attn_implementation": "eager",
}


def config_of(kind: str) -> Vision:
    return Vision(
        tower="vit",
        depth=DEPTH,
        width=WIDTH,
        heads=4,
        mlp_width=64,
        patch_px=PATCH,
        image_px=GRID * PATCH,
        position_grid=GRID,
        layer_scale=kind == "dinov2",
        mask_token=True,
        norm_eps=1e-6 if kind == "dinov2" else 1e-12,
        dropout=0.0,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        pretrained="",
    )


def torch_model(kind: str) -> torch.nn.Module:
    if kind == "vit":
        config = transformers.ViTConfig(intermediate_size=64, **COMMON)
        return transformers.ViTModel(config, use_mask_token=True).eval()
    return transformers.Dinov2Model(transformers.Dinov2Config(mlp_ratio=2, **COMMON)).eval()


def randomise(model: torch.nn.Module) -> None:
    """Draw ALL parameters; scales and LayerScale around one, so that a missing or swapped one shows."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        around = 1.0 if parameter.ndim == 1 and not name.endswith("bias") else 0.0
        parameter.data = around + 0.2 * torch.randn(parameter.shape, generator=generator)


@dataclasses.dataclass
class Twins:
    kind: str
    cfg: Vision
    tower: vit.Tower
    params: dict
    model: torch.nn.Module

    def ours(self, params, pixels, masked=None):
        def run(tower, pixels, masked):
            return tower.finish(tower.blocks(tower.embed(pixels, masked), 0, self.cfg.depth, True))

        return self.tower.apply({"params": params}, pixels, masked, method=run)

    def theirs(self, pixels: np.ndarray, masked: np.ndarray | None = None) -> torch.Tensor:
        resize = {"interpolate_pos_encoding": True} if self.kind == "vit" else {}
        masks = {} if masked is None else {"bool_masked_pos": torch.from_numpy(masked)}
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return self.model(images, **resize, **masks).last_hidden_state


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def twins(request, tmp_path_factory) -> Twins:
    folder, model, cfg = tmp_path_factory.mktemp(request.param), torch_model(request.param), config_of(request.param)
    randomise(model)
    model.save_pretrained(folder)
    params = hf_import.vision_params(folder, cfg)
    return Twins(request.param, cfg, vit.Tower(cfg, jnp.dtype("float32")), params, model)


def pixels_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).normal(size=(2, height, width, 3)).astype(np.float32)


def test_parameter_paths_are_those_of_the_tower(twins):
    def run(tower, pixels):
        return tower.finish(tower.blocks(tower.embed(pixels), 0, DEPTH, True))

    pixels = pixels_of(GRID * PATCH, GRID * PATCH)
    made = jax.eval_shape(lambda key: twins.tower.init(key, pixels, method=run)["params"], jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, twins.params)


def test_each_block_equals_torch(twins):
    x = np.random.default_rng(1).normal(size=(2, 1 + GRID**2, WIDTH)).astype(np.float32)
    blocks = [m for m in twins.model.modules() if type(m).__name__ in ("ViTLayer", "Dinov2Layer")]
    assert len(blocks) == DEPTH
    for i, block in enumerate(blocks):
        with torch.no_grad():
            expected = block(torch.from_numpy(x)).numpy()
        got = twins.tower.apply({"params": twins.params}, x, i, i + 1, True, method="blocks")
        assert np.abs(expected - x).max() > 0.1
        assert np.abs(got - expected).max() < 1e-5


# The stored grid is 5x5: as stored, finer, coarser, not square.
@pytest.mark.parametrize("size", [(20, 20), (28, 28), (12, 12), (12, 24)])
def test_whole_tower_equals_torch_at_any_resolution(twins, size):
    pixels = pixels_of(*size)
    with torch.no_grad():
        expected = twins.theirs(pixels).numpy()
    got = twins.ours(twins.params, pixels)
    assert got.shape == (2, 1 + size[0] * size[1] // PATCH**2, WIDTH)
    assert np.abs(got - expected).max() < 1e-4


def test_mask_token_replaces_masked_patches_as_in_torch(twins):
    pixels = pixels_of(20, 20)
    masked = np.random.default_rng(2).random((2, GRID**2)) < 0.4
    with torch.no_grad():
        expected = twins.theirs(pixels, masked).numpy()
    assert np.abs(twins.ours(twins.params, pixels, masked) - expected).max() < 1e-4
    noise = np.repeat(np.repeat(masked.reshape(2, GRID, GRID), PATCH, 1), PATCH, 2)[..., None] * 100.0
    other = (pixels + noise).astype(np.float32)
    np.testing.assert_array_equal(
        twins.ours(twins.params, other, masked), twins.ours(twins.params, pixels, masked), "masked pixels leak"
    )


def test_every_gradient_equals_torch(twins, tmp_path):
    pixels = pixels_of(28, 28)  # not the stored grid: the gradient of the positions goes through the resize
    masked = np.random.default_rng(3).random((2, 49)) < 0.4
    weight = np.random.default_rng(4).normal(size=(2, 50, WIDTH)).astype(np.float32)

    twins.model.zero_grad()
    (twins.theirs(pixels, masked) * torch.from_numpy(weight)).sum().backward()
    carrier = torch_model(twins.kind)  # its parameters carry the gradients through the table of names
    for parameter, source in zip(carrier.parameters(), twins.model.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad.clone()
    carrier.save_pretrained(tmp_path)
    expected = hf_import.vision_params(tmp_path, twins.cfg)
    got = jax.jit(jax.grad(lambda params: (twins.ours(params, pixels, masked) * weight).sum()))(twins.params)

    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for path, ours, theirs in zip(paths.every(expected), jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        zero = path.endswith("attention/key/bias")  # softmax ignores a shift of the keys: only rounding is left
        assert np.abs(theirs).max() > 0 or zero, path
        scale = largest if zero else np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= 1e-4 * scale, path
