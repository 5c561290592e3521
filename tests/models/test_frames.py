"""A video in the bridge: k frames whose tokens the interaction sees side by side, and the tower's blocks one by one.

The twin has no frames: it is the interaction over one long picture of kP tokens, whose position biases are written out
k times, and the tower's blocks run on each frame by itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import config as configs
from bridge_jax import paths
from bridge_jax.models import segments
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward
from bridge_jax.types import Lower
from tests import tiny

K, B = 3, 4
DESIGNS = ("cross", "self_cross", "pooled")
PLACEMENTS = ("top", "early", "after")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def make(**bridge):
    cfg = tiny.config(bridge=bridge)
    return cfg, tiny.params(cfg)


def videos(cfg, params, frames=K, seed=0) -> Lower:
    """Return the lower states of B pairs whose picture is `frames` random ones, [B,k,P,D]."""
    side, batch = cfg.vision.image_px, tiny.batch(cfg, B)
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (B, frames, side, side, 3)).astype(np.uint8)

    def run(model: BridgeModel) -> Lower:
        text = model.lower_text(batch.ids, batch.text_mask)
        image = forward.lower_images(model, images)
        return Lower(image=image, text=text, text_mask=jnp.asarray(batch.text_mask))

    return tiny.apply(cfg, params, run)


def fused(cfg, params, lower):
    return tiny.apply(cfg, params, lambda model: model.fused(lower))


def with_images(lower: Lower, image) -> Lower:
    return dataclasses.replace(lower, image=image)


def tiled(params, k):
    """Return the parameters with every position bias written out for a picture of k times as many tokens."""
    flat = paths.flatten(params)
    for path, value in flat.items():
        if path.endswith("position_bias"):
            flat[path] = np.concatenate([value] * k, axis=1 if "text_over_image" in path else 0)
    return paths.unflatten(flat)


def twin(cfg, params, lower):
    """Return the fused states, interaction layer by interaction layer, block by block, frame by frame."""

    def blocks(model, states, start, stop):
        frames = np.split(np.asarray(states), K, axis=1)
        return jnp.concatenate([model.vision.blocks(jnp.asarray(f), start, stop, True) for f in frames], axis=1)

    def run(model):
        image, text = lower.image.reshape(B, -1, lower.image.shape[-1]), lower.text
        for q, layer in enumerate(model.bridge.layers):
            image, text, *_ = layer(image, text, lower.text_mask, True)
            images, texts = segments.blocks_after(model, q)
            image = blocks(model, image, model.image_after[q] + 1, model.image_after[q] + 1 + images)
            start = model.text_after[q] + 1
            text = model.text.blocks(text, lower.text_mask, start, start + texts, True)
        if not model.finish_below:
            image, text = model.vision.finish(image), model.text.finish(text)
        return image, text

    return tiny.apply(cfg, tiled(params, K), run)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_bridge_over_frames_is_the_twins(design, placement):
    cfg, params = make(design=design, placement=placement)
    lower = videos(cfg, params)
    found, (image, text) = fused(cfg, params, lower), twin(cfg, params, lower)
    np.testing.assert_allclose(found.image_states, image, **CLOSE)
    np.testing.assert_allclose(found.text_states, text, **CLOSE)
    P = lower.image.shape[2]
    if design != "pooled":
        assert [a.shape[1:] for a in found.text_over_image] == [(cfg.text.length, K * P)] * cfg.bridge.layers
        np.testing.assert_allclose(found.text_over_image[0].sum(-1)[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_frame_is_a_picture_bit_for_bit(design, placement):
    cfg, params = make(design=design, placement=placement)
    lower = videos(cfg, params, frames=1)
    as_video, as_picture = fused(cfg, params, lower), fused(cfg, params, with_images(lower, lower.image[:, 0]))
    jax.tree.map(np.testing.assert_array_equal, as_video, as_picture)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_video_that_stands_still_is_its_picture(design):
    """Attention over k equal frames gives each a k-th of the weight, and so do the means."""
    cfg, params = make(design=design)
    lower = videos(cfg, params, frames=1)
    still = with_images(lower, jnp.repeat(lower.image, K, axis=1))
    one, many = fused(cfg, params, lower), fused(cfg, params, still)
    for name in ("image", "text", "itm_logit", "text_states"):
        np.testing.assert_allclose(getattr(many, name), getattr(one, name), **CLOSE)
    alone = tiny.apply(cfg, params, lambda m: m.unimodal_image(lower.image[:, 0]))
    together = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, still.image))
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)
    assert np.abs(one.itm_logit - fused(cfg, params, videos(cfg, params)).itm_logit).max() > 1e-3


def test_an_embedding_is_the_mean_of_the_frames_of_length_one():
    cfg, params = make()
    lower = videos(cfg, params).image
    each = np.stack([tiny.apply(cfg, params, lambda m, j=j: m.unimodal_image(lower[:, j])) for j in range(K)], axis=1)
    mean = each.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    found = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, lower))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert (np.linalg.norm(mean, axis=-1) < 0.999).all()  # or normalising would say nothing
    picture = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, lower[:, 0]))
    np.testing.assert_array_equal(picture, each[:, 0])


def test_the_order_of_frames_is_nothing_and_each_of_them_counts():
    cfg, params = make()
    lower = videos(cfg, params)
    found = fused(cfg, params, lower).itm_logit
    turned = fused(cfg, params, with_images(lower, lower.image[:, ::-1])).itm_logit
    np.testing.assert_allclose(turned, found, **CLOSE)
    for frame in range(K):
        changed = with_images(lower, lower.image.at[0, frame].set(lower.image[1, frame]))
        moved = np.abs(fused(cfg, params, changed).itm_logit - found)
        assert moved[0] > 1e-4
        np.testing.assert_array_equal(moved[1:], 0)


def test_with_closed_gates_every_frame_is_the_towers_own():
    """Nothing but the interaction lets one frame see another."""
    cfg, params = make()
    flat = paths.flatten(params)
    closed = paths.unflatten({p: np.float32(-np.inf) if p.endswith("_gate") else v for p, v in flat.items()})
    lower = videos(cfg, params)
    states = fused(cfg, closed, lower).image_states.reshape(lower.image.shape)
    for frame in range(K):
        alone = tiny.apply(cfg, closed, lambda m, frame=frame: m.finish_image(lower.image[:, frame]))
        np.testing.assert_allclose(states[:, frame], alone, rtol=1e-6, atol=1e-6)


def test_scanned_segments_give_the_same():
    cfg, params = make(placement="top")
    scanned = dataclasses.replace(cfg, blocks=configs.Blocks(scan=True, remat="full"))
    lower = videos(cfg, params)
    found, expected = fused(scanned, params, lower), fused(cfg, params, lower)
    np.testing.assert_allclose(found.itm_logit, expected.itm_logit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.image_states, expected.image_states, rtol=1e-4, atol=1e-5)
