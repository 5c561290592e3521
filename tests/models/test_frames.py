"""Videos in the bridge: the interaction sees the tokens of all k frames, the tower's blocks one frame at a time.

The slow twin runs the interaction over one long picture of kP tokens, with the position biases repeated k times, and
the tower's blocks on each frame alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import Blocks
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
    """Return the lower states of B texts, each with a video of `frames` random pictures, [B,k,P,D]."""
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
    """Return the parameters with every position bias repeated for a picture with k times as many tokens."""
    flat = paths.flatten(params)
    for path, value in flat.items():
        if path.endswith("position_bias"):
            flat[path] = np.concatenate([value] * k, axis=1 if "text_over_image" in path else 0)
    return paths.unflatten(flat)


def twin(cfg, params, lower):
    """Return the fused states, computed layer by layer and, in the image tower, frame by frame."""

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
def test_the_bridge_over_frames_equals_the_twin(design, placement):
    cfg, params = make(design=design, placement=placement)
    lower = videos(cfg, params)
    outputs, (image, text) = fused(cfg, params, lower), twin(cfg, params, lower)
    np.testing.assert_allclose(outputs.image_states, image, **CLOSE)
    np.testing.assert_allclose(outputs.text_states, text, **CLOSE)
    P = lower.image.shape[2]
    if design != "pooled":
        assert [a.shape[1:] for a in outputs.text_over_image] == [(cfg.text.length, K * P)] * cfg.bridge.layers
        np.testing.assert_allclose(outputs.text_over_image[0].sum(-1)[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_video_of_one_frame_equals_a_picture_bit_for_bit(design, placement):
    cfg, params = make(design=design, placement=placement)
    lower = videos(cfg, params, frames=1)
    as_video, as_picture = fused(cfg, params, lower), fused(cfg, params, with_images(lower, lower.image[:, 0]))
    jax.tree.map(np.testing.assert_array_equal, as_video, as_picture)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_video_of_equal_frames_equals_its_picture(design):
    """Attention and means give each of k equal frames a k-th of the weight."""
    cfg, params = make(design=design)
    lower = videos(cfg, params, frames=1)
    still = with_images(lower, jnp.repeat(lower.image, K, axis=1))
    picture, video = fused(cfg, params, lower), fused(cfg, params, still)
    for name in ("image", "text", "itm_logit", "text_states"):
        np.testing.assert_allclose(getattr(video, name), getattr(picture, name), **CLOSE)
    alone = tiny.apply(cfg, params, lambda m: m.unimodal_image(lower.image[:, 0]))
    together = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, still.image))
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)
    assert np.abs(picture.itm_logit - fused(cfg, params, videos(cfg, params)).itm_logit).max() > 1e-3


def test_a_videos_embedding_is_the_normalised_mean_of_its_frames():
    cfg, params = make()
    lower = videos(cfg, params).image
    each = np.stack([tiny.apply(cfg, params, lambda m, j=j: m.unimodal_image(lower[:, j])) for j in range(K)], axis=1)
    mean = each.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    outputs = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, lower))
    np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=1e-6)
    assert (np.linalg.norm(mean, axis=-1) < 0.999).all()  # else normalising would change nothing
    picture = tiny.apply(cfg, params, lambda m: forward.unimodal_images(m, lower[:, 0]))
    np.testing.assert_array_equal(picture, each[:, 0])


def test_each_frame_counts_and_their_order_does_not():
    cfg, params = make()
    lower = videos(cfg, params)
    outputs = fused(cfg, params, lower).itm_logit
    reversed_order = fused(cfg, params, with_images(lower, lower.image[:, ::-1])).itm_logit
    np.testing.assert_allclose(reversed_order, outputs, **CLOSE)
    for frame in range(K):
        changed = with_images(lower, lower.image.at[0, frame].set(lower.image[1, frame]))
        change = np.abs(fused(cfg, params, changed).itm_logit - outputs)
        assert change[0] > 1e-4
        np.testing.assert_array_equal(change[1:], 0)


def test_closed_gates_leave_every_frame_to_the_tower():
    """Only the interaction lets one frame see another."""
    cfg, params = make()
    flat = paths.flatten(params)
    closed = paths.unflatten({p: np.float32(-np.inf) if p.endswith("_gate") else v for p, v in flat.items()})
    lower = videos(cfg, params)
    states = fused(cfg, closed, lower).image_states.reshape(lower.image.shape)
    for frame in range(K):
        alone = tiny.apply(cfg, closed, lambda m, frame=frame: m.finish_image(lower.image[:, frame]))
        np.testing.assert_allclose(states[:, frame], alone, rtol=1e-6, atol=1e-6)


def test_scanned_segments_give_the_same_outputs():
    cfg, params = make(placement="top")
    scanned = dataclasses.replace(cfg, blocks=Blocks(scan=True, remat="full", kernels="plain"))
    lower = videos(cfg, params)
    outputs, expected = fused(scanned, params, lower), fused(cfg, params, lower)
    np.testing.assert_allclose(outputs.itm_logit, expected.itm_logit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs.image_states, expected.image_states, rtol=1e-4, atol=1e-5)
