"""The whole model: placement, the shared lower pass, closed gates, padding, order, and what each side sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import ConfigError
from bridge_jax.models import towers
from bridge_jax.models.placement import bridged_blocks, meeting_blocks
from bridge_jax.step.params import param_shapes
from bridge_jax.types import Lower
from tests import tiny

PLACEMENTS = ("top", "middle", "early", "staggered", "after")
DESIGNS = {"none": dict(design="none", layers=0), "pooled": dict(design="pooled")} | {
    name: dict(design=name) for name in ("self_cross", "cross")
}


def setup(seed: int = 0, **sections):
    cfg = tiny.config(**sections)
    return cfg, tiny.params(cfg, seed), tiny.batch(cfg)


def fused(cfg, params, lower):
    return tiny.apply(cfg, params, lambda model: model.fused(lower))


def states(cfg, params, lower):
    """Return both towers' finished states without interaction."""
    return tiny.apply(cfg, params, lambda m: (m.finish_image(lower.image), m.finish_text(lower.text, lower.text_mask)))


@pytest.mark.parametrize(
    ("placement", "layers", "depth", "expected"),
    [
        ("top", 6, 12, (6, 7, 8, 9, 10, 11)),
        ("middle", 6, 12, (3, 4, 5, 6, 7, 8)),
        ("early", 6, 12, (0, 1, 2, 3, 4, 5)),
        ("staggered", 6, 12, (1, 3, 5, 7, 9, 11)),
        ("staggered", 4, 12, (2, 5, 8, 11)),
        ("staggered", 2, 5, (1, 4)),
        ("staggered", 5, 5, (0, 1, 2, 3, 4)),
        ("middle", 3, 4, (0, 1, 2)),
        ("after", 3, 12, (11, 11, 11)),
        *[(p, 1, 12, (b,)) for p, b in zip(PLACEMENTS, (11, 5, 0, 11, 11), strict=True)],
        *[(p, 0, 12, ()) for p in ("top", "after")],
    ],
)
def test_bridged_blocks(placement, layers, depth, expected):
    assert bridged_blocks(placement, layers, depth) == expected


@pytest.mark.parametrize("depth", range(1, 13))
def test_staggered_never_uses_a_block_twice_and_ends_at_the_top(depth):
    for layers in range(1, depth + 1):
        blocks = bridged_blocks("staggered", layers, depth)
        assert len(set(blocks)) == layers
        assert list(blocks) == sorted(blocks)
        assert blocks[0] >= 0
        assert blocks[-1] == depth - 1


@pytest.mark.parametrize(
    ("placement", "image", "text"),
    [
        ("top", (10, 11), (4, 5)),
        ("middle", (8, 9), (2, 3)),
        ("early", (6, 7), (0, 1)),
        ("staggered", (8, 11), (2, 5)),
        ("after", (11, 11), (5, 5)),
    ],
)
def test_unequal_towers_are_paired_from_the_top(placement, image, text):
    """A ViT of 12 blocks over a MiniLM of 6, and the other way round."""
    two = dict(bridge=dict(placement=placement, layers=2))
    assert meeting_blocks(tiny.config(vision=dict(depth=12), text=dict(depth=6), **two)) == (image, text)
    assert meeting_blocks(tiny.config(vision=dict(depth=6), text=dict(depth=12), **two)) == (text, image)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_closed_gates_leave_both_towers_bit_for_bit(placement):
    cfg, params, batch = setup(bridge=dict(placement=placement))
    flat = paths.flatten(params)
    closed = paths.unflatten({k: jnp.float32(-jnp.inf) if k.endswith("_gate") else v for k, v in flat.items()})
    lower = tiny.lower(cfg, params, batch)
    outputs, (image, text) = fused(cfg, closed, lower), states(cfg, params, lower)
    np.testing.assert_array_equal(outputs.image_states, image)
    np.testing.assert_array_equal(outputs.text_states, text)
    opened = fused(cfg, params, lower)
    assert not np.allclose(opened.image_states, image, atol=1e-3)
    assert not np.allclose(opened.text_states, text, atol=1e-3)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_lower_pass_and_the_rest_equal_the_whole_tower(placement):
    """Unimodal states and embeddings computed from `lower` equal those of the towers run in one pass."""
    cfg, params, batch = setup(bridge=dict(placement=placement))

    def whole(model):
        image = model.vision.blocks(model.vision.embed(towers.normalise(batch.images, cfg)), 0, cfg.vision.depth, True)
        text = model.text.blocks(model.text.embed(batch.ids, True), batch.text_mask, 0, cfg.text.depth, True)
        return model.vision.finish(image), model.text.finish(text)

    lower = tiny.lower(cfg, params, batch)
    image, text = tiny.apply(cfg, params, whole)
    np.testing.assert_array_equal(states(cfg, params, lower)[0], image)
    np.testing.assert_array_equal(states(cfg, params, lower)[1], text)
    linear = params["heads"]["unimodal_text"]["linear"]
    mean = (np.asarray(text) * batch.text_mask[..., None]).sum(1) / batch.text_mask.sum(1)[:, None]
    expected = mean @ linear["kernel"] + linear["bias"][None]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    computed = tiny.apply(cfg, params, lambda m: m.unimodal_text(lower.text, lower.text_mask))
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", ["top", "early", "after"])
def test_fused_runs_blocks_and_layers_in_order(placement):
    """The fused pass equals the same modules called one after the other in the order of the placement."""
    cfg, params, batch = setup(bridge=dict(placement=placement))
    image_after, text_after = meeting_blocks(cfg)

    def by_hand(model):
        image = model.vision.embed(towers.normalise(batch.images, cfg))
        text = model.text.embed(batch.ids, True)
        if placement == "after":
            image = model.vision.finish(model.vision.blocks(image, 0, cfg.vision.depth, True))
            text = model.text.blocks(text, batch.text_mask, 0, cfg.text.depth, True)
            for layer in model.bridge.layers:
                image, text, *_ = layer(image, text, batch.text_mask, True)
            return image, text
        done_image = done_text = 0  # blocks already run
        for q, layer in enumerate(model.bridge.layers):
            image = model.vision.blocks(image, done_image, image_after[q] + 1, True)
            text = model.text.blocks(text, batch.text_mask, done_text, text_after[q] + 1, True)
            image, text, *_ = layer(image, text, batch.text_mask, True)
            done_image, done_text = image_after[q] + 1, text_after[q] + 1
        image = model.vision.finish(model.vision.blocks(image, done_image, cfg.vision.depth, True))
        return image, model.text.blocks(text, batch.text_mask, done_text, cfg.text.depth, True)

    outputs = fused(cfg, params, tiny.lower(cfg, params, batch))
    image, text = tiny.apply(cfg, params, by_hand)
    np.testing.assert_array_equal(outputs.image_states, image)
    np.testing.assert_array_equal(outputs.text_states, text)
    assert len(outputs.text_over_image) == len(outputs.image_over_text) == cfg.bridge.layers


@pytest.mark.parametrize("design", ["pooled", "self_cross", "cross"])
@pytest.mark.parametrize("placement", ["top", "after"])
def test_one_layer_lets_each_side_change_the_other(design, placement):
    """The authors' last block is dead, and with Q = 1 their bridge fuses nothing (docs/method.md 5.4)."""
    cfg, params, batch = setup(bridge=dict(placement=placement, layers=1, design=design))
    lower = tiny.lower(cfg, params, batch)
    outputs = fused(cfg, params, lower)
    other_text = dataclasses.replace(lower, text=lower.text[::-1], text_mask=lower.text_mask[::-1])
    other_image = dataclasses.replace(lower, image=lower.image[::-1])
    assert (np.abs(fused(cfg, params, other_text).image - outputs.image).max(axis=1) > 1e-3).all()
    assert (np.abs(fused(cfg, params, other_image).text - outputs.text).max(axis=1) > 1e-3).all()


def test_without_a_bridge_no_side_changes_the_other():
    cfg, params, batch = setup(bridge=DESIGNS["none"])
    lower = tiny.lower(cfg, params, batch)
    outputs = fused(cfg, params, lower)
    np.testing.assert_array_equal(outputs.image, fused(cfg, params, dataclasses.replace(lower, text=-lower.text)).image)
    np.testing.assert_array_equal(outputs.text_states, states(cfg, params, lower)[1])


@pytest.mark.parametrize("design", DESIGNS)
def test_padding_changes_no_output_bit_for_bit(design):
    cfg, params, batch = setup(bridge=DESIGNS[design])
    noisy = dataclasses.replace(batch, ids=np.where(batch.text_mask, batch.ids, 7).astype(np.int32))
    assert (noisy.ids != batch.ids).any()
    lower, other = tiny.lower(cfg, params, batch), tiny.lower(cfg, params, noisy)
    assert (np.asarray(lower.text) != other.text).any()

    def embed(lower: Lower):
        return tiny.apply(cfg, params, lambda m: m.unimodal_text(lower.text, lower.text_mask))

    np.testing.assert_array_equal(embed(lower), embed(other))
    outputs, noisy_outputs = fused(cfg, params, lower), fused(cfg, params, other)
    for name in ("image", "text", "itm_logit", "image_states", "image_over_text"):
        jax.tree.map(np.testing.assert_array_equal, getattr(outputs, name), getattr(noisy_outputs, name))
    for clean, noise in zip(
        (outputs.text_states, *outputs.text_over_image),
        (noisy_outputs.text_states, *noisy_outputs.text_over_image),
        strict=True,
    ):
        np.testing.assert_array_equal(clean[batch.text_mask], noise[batch.text_mask])


@pytest.mark.parametrize("design", DESIGNS)
def test_permuting_the_batch_permutes_the_outputs(design):
    cfg, params, batch = setup(bridge=DESIGNS[design])
    order = np.array([2, 0, 3, 1])
    outputs = fused(cfg, params, tiny.lower(cfg, params, batch))
    permuted = fused(cfg, params, tiny.lower(cfg, params, tiny.take(batch, order)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[order], y, rtol=1e-5, atol=1e-5), outputs, permuted)


@pytest.mark.parametrize("design", DESIGNS)
def test_bfloat16_is_close_to_float32(design):
    """The products are bfloat16; parameters, attention weights, embeddings and match logits stay float32."""
    cfg, params, batch = setup(bridge=DESIGNS[design])
    half_cfg = dataclasses.replace(cfg, compute_dtype="bfloat16")
    outputs = fused(half_cfg, params, tiny.lower(half_cfg, params, batch))
    exact = fused(cfg, params, tiny.lower(cfg, params, batch))
    assert outputs.image_states.dtype == outputs.text_states.dtype == jnp.bfloat16
    float32_outputs = (
        outputs.image,
        outputs.text,
        outputs.itm_logit,
        *outputs.text_over_image,
        *outputs.image_over_text,
    )
    assert {x.dtype for x in float32_outputs} == {jnp.dtype("float32")}
    for half_embedding, exact_embedding in ((outputs.image, exact.image), (outputs.text, exact.text)):
        # Seven blocks with eight bits of mantissa.
        assert (np.asarray(half_embedding * exact_embedding).sum(axis=1) > 0.995).all()
    shapes = param_shapes(half_cfg)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_an_unknown_tower_raises_config_error():
    with pytest.raises(
        ConfigError, match=r"vision.tower: 'resnet' is unknown: no Tower or VisionTower in .*/resnet\.py"
    ):
        towers.tower_class("vision", "resnet")
    with pytest.raises(ConfigError, match="'heads' is unknown"):
        towers.tower_class("vision", "heads")
    with pytest.raises(ConfigError, match=r"config.text.tower: 'vit' is no text tower; its Tower is for config.vision"):
        towers.tower_class("text", "vit")


def test_pixels_are_normalised_by_the_towers_own_statistics():
    cfg = tiny.config(vision=dict(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)))
    images = np.full((1, 2, 2, 3), 51, np.uint8)  # 0.2
    expected = np.array([0.2, 0.0, -0.05])
    np.testing.assert_allclose(towers.normalise(images, cfg)[0, 1, 1], expected, atol=1e-6)
