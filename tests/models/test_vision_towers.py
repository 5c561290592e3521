"""Every image tower but ViT and DINOv2 against Hugging Face's torch classes, every parameter drawn at random."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from bridge_jax import paths
from bridge_jax.config import Blocks
from tests import towers

GRID, PATCH = towers.VISION.position_grid, towers.VISION.patch_px


class Twins:
    """Our tower and theirs with the same parameters."""

    def __init__(self, name, folder):
        self.name, self.kind = name, towers.KINDS[name]
        self.model = self.kind.torch_model()
        self.params = self.kind.params(self.model, folder)
        self.prefix = self.kind.tower().prefix
        self.hides_pixels = self.kind.section.mask_token  # and so resizes without being told

    def ours(self, pixels, *masked):
        return np.asarray(jax.jit(self.kind.run)(self.params, pixels, *masked))

    def theirs(self, pixels, masked=None) -> torch.Tensor:
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        extra = {} if self.hides_pixels else {"interpolate_pos_encoding": True}
        if masked is not None:
            extra["bool_masked_pos"] = torch.from_numpy(masked)
        states = self.model(images, **extra).last_hidden_state
        return self.model.post_layernorm(states) if self.name == "clip_vision_model" else states


# ViT and DINOv2: test_vit.py
@pytest.fixture(scope="module", params=[name for name in towers.VISION_KINDS if name not in ("vit", "dinov2")])
def twins(request, tmp_path_factory) -> Twins:
    return Twins(request.param, tmp_path_factory.mktemp(request.param))


def pixels_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).normal(size=(2, height, width, 3)).astype(np.float32)


def test_parameter_paths_are_those_of_the_tower(twins):
    def run(tower, pixels):
        return tower.finish(tower.blocks(tower.embed(pixels), 0, twins.kind.section.depth, True))

    pixels = pixels_of(GRID * PATCH, GRID * PATCH)
    made = jax.eval_shape(lambda: twins.kind.tower().init(jax.random.key(0), pixels, method=run)["params"])
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, twins.params)


def test_each_block_equals_torch(twins):
    blocks = [m for m in twins.model.modules() if type(m).__name__ == twins.kind.block]
    assert len(blocks) == twins.kind.section.depth
    seen = []
    for block in blocks:
        hook = lambda _, args, kwargs, out: seen.append(  # noqa: E731
            ((args[0] if args else kwargs["hidden_states"]), out[0] if isinstance(out, tuple) else out)
        )
        block.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        twins.theirs(pixels_of(20, 20))
    for block in blocks:
        block._forward_hooks.clear()
    for i, (before, after) in enumerate(seen):
        got = twins.kind.tower().apply({"params": twins.params}, before.numpy(), i, i + 1, True, method="blocks")
        assert np.abs(after.numpy() - before.numpy()).max() > 0.1
        assert np.abs(got - after.numpy()).max() < 1e-5


# The stored grid is 5x5: as stored, finer, coarser.
@pytest.mark.parametrize("side", [20, 28, 12])
def test_whole_tower_equals_torch_at_any_resolution(twins, side):
    pixels = pixels_of(side, side)
    with torch.no_grad():
        expected = twins.theirs(pixels).numpy()
    got = twins.ours(pixels)
    assert got.shape == (2, twins.prefix + (side // PATCH) ** 2, towers.WIDTH)
    assert np.abs(got - expected).max() < 1e-4


def test_masked_pixels_change_no_output(twins):
    """The DINOs have a mask token and must equal torch; for CLIP and SigLIP, ours is added."""
    kind = dataclasses.replace(twins.kind, section=dataclasses.replace(twins.kind.section, mask_token=True))
    pixels, masked = pixels_of(20, 20), np.random.default_rng(2).random((2, GRID**2)) < 0.4
    params = {"mask_token": np.ones((1, 1, towers.WIDTH), np.float32), **twins.params}
    noise = np.repeat(np.repeat(masked.reshape(2, GRID, GRID), PATCH, 1), PATCH, 2)[..., None] * 100.0
    run = jax.jit(kind.run)
    got = run(params, pixels, masked)
    np.testing.assert_array_equal(got, run(params, (pixels + noise).astype(np.float32), masked))
    assert np.abs(got - run(params, pixels)).max() > 1e-2
    if twins.hides_pixels:
        with torch.no_grad():
            assert np.abs(got - twins.theirs(pixels, masked).numpy()).max() < 1e-4


def test_scanned_blocks_give_the_same_numbers(twins):
    pixels = pixels_of(20, 20)

    def run(tower, pixels):
        return tower.finish(tower.blocks(tower.embed(pixels), 0, twins.kind.section.depth, True))

    tower = twins.kind.tower().clone(execution=Blocks(scan=True, remat="full", kernels="plain"))
    got = tower.apply({"params": twins.params}, pixels, method=run)
    np.testing.assert_allclose(got, twins.ours(pixels), atol=1e-5)


def test_every_gradient_equals_torch(twins, tmp_path):
    pixels = pixels_of(28, 28)  # not the stored grid: the gradient of the positions goes through the resize
    masked = (np.random.default_rng(3).random((2, 49)) < 0.4,) if twins.hides_pixels else ()
    weight = np.random.default_rng(4).normal(size=(2, twins.prefix + 49, towers.WIDTH)).astype(np.float32)
    twins.model.zero_grad()
    (twins.theirs(pixels, *masked) * torch.from_numpy(weight)).sum().backward()
    carrier = twins.kind.torch_model()  # its parameters carry the gradients through the table of names
    for parameter, source in zip(carrier.parameters(), twins.model.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad.clone()
    expected = twins.kind.params(carrier, tmp_path)
    got = jax.jit(jax.grad(lambda params: (twins.kind.run(params, pixels, *masked) * weight).sum()))(twins.params)

    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for path, ours, theirs in zip(paths.every(expected), jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        zero = path.endswith("attention/key/bias")  # softmax ignores a shift of the keys: only rounding is left
        assert np.abs(theirs).max() > 0 or zero, path
        scale = largest if zero else np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= 1e-4 * scale, path
