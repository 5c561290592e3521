"""The table of names against the towers' own trees, Hugging Face's own state dicts and the published counts."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import Bridge, ConfigError
from bridge_jax.interop import names, names_authors
from bridge_jax.models import bert, vit
from configs import common


def refused(text: str):
    return pytest.raises(ConfigError, match=re.escape(text))


def entries_of(kind, vision, text):
    if kind == "bert":
        return names.text(text, "bert")
    return names.vision(dataclasses.replace(vision, layer_scale=kind == "dinov2", mask_token=True), kind)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "bert"])
def test_round_trip_is_bit_for_bit(kind, vision, text):
    draw = np.random.default_rng(0)
    for entry in entries_of(kind, vision, text):
        stored = draw.normal(size=entry.stored).astype(np.float32)
        ours = entry.to_ours(stored)
        assert ours.shape == entry.shape
        back = entry.to_stored(ours)
        assert back.shape == entry.stored
        assert back.tobytes() == stored.tobytes(), entry.path


def test_transforms_move_the_right_axes(vision):
    entries = {e.path: e for e in names.vision(vision, "vit")}
    up = entries["vision/block_01/mlp/up/kernel"]
    stored = np.arange(16 * 8).reshape(16, 8)  # torch: [out, in]
    assert up.to_ours(stored)[3, 5] == stored[5, 3]
    patch = entries["vision/patch/kernel"]
    stored = np.arange(8 * 3 * 4 * 4).reshape(8, 3, 4, 4)  # torch: [out, in, height, width]
    assert patch.to_ours(stored)[1, 2, 0, 7] == stored[7, 0, 1, 2]


@pytest.mark.parametrize("kind", ["vit", "dinov2", "bert"])
def test_table_covers_the_tower_exactly(kind, vision, text):
    def whole(tower, *inputs):
        if kind == "bert":
            return tower.blocks(tower.embed(inputs[0], True), inputs[1], 0, text.depth, True)
        return tower.finish(tower.blocks(tower.embed(inputs[0]), 0, vision.depth, True))

    if kind == "bert":
        root, tower = "text", bert.Tower(text, jnp.dtype("float32"))
        inputs = (jnp.ones((1, 7), int), jnp.ones((1, 7), bool))
    else:
        cfg = dataclasses.replace(vision, layer_scale=kind == "dinov2", mask_token=True)
        root, tower, inputs = "vision", vit.Tower(cfg, jnp.dtype("float32")), (jnp.ones((1, 12, 12, 3)),)
    made = jax.eval_shape(lambda key: tower.init(key, *inputs, method=whole)["params"], jax.random.key(0))
    shapes = dict(zip(paths.every({root: made}), [leaf.shape for leaf in jax.tree.leaves(made)], strict=True))
    table = entries_of(kind, vision, text)
    assert {e.path: e.shape for e in table} == shapes
    assert len({e.name for e in table}) == len(table)


def test_mask_token_is_in_the_table_only_when_the_tower_has_it(vision):
    def has(cfg):
        return any(e.path == "vision/mask_token" for e in names.vision(cfg, "vit"))

    assert not has(vision)
    assert has(dataclasses.replace(vision, mask_token=True))


def test_bare_name():
    assert names.bare_name("bert.encoder.layer.0.output.LayerNorm.beta", "bert").endswith("LayerNorm.bias")
    assert names.bare_name("embeddings.LayerNorm.gamma", "bert") == "embeddings.LayerNorm.weight"
    assert names.bare_name("vit.layernorm.weight", "vit") == "layernorm.weight"
    assert names.bare_name("vit.layernorm.weight", "bert") == "vit.layernorm.weight"


def test_unknown_models_are_refused(vision, text):
    with refused("config.vision: no name table for model_type 'swin'; known: clip_vision_model, dinov2, "):
        names.vision(vision, "swin")
    with refused(
        "config.text: no name table for model_type 'gpt2'; known: bert, clip_text_model, metaclip_2_text_model, "
    ):
        names.text(text, "gpt2")
    with refused("config.vision.layer_scale: expected True for model_type 'dinov2', got False"):
        names.vision(vision, "dinov2")


def record(like, section):
    return dataclasses.replace(like, **section.to_dict())


def bridge_of(layers: int) -> Bridge:
    return Bridge(
        design="cross",
        placement="after",
        layers=layers,
        shared_width=768,
        heads=12,
        embed_width=256,
        tau_start=1.0,
        gate_start=0.1,
        attention_dropout=0.1,
        output_dropout=0.1,
        logit_scale_start=14.0,
        logit_scale_max=100.0,
        match_threshold_start=0.3,
    )


@pytest.mark.parametrize(("layers", "count"), [(2, 236_217_670), (4, 250_398_030), (6, 264_578_390)])
def test_authors_layout_has_the_published_parameter_count(vision, text, layers, count):
    vision = record(vision, common.vit("base", patch_px=16, image_px=224))
    text = record(text, common.bert("base", length=30))
    layout = names_authors.layout(vision, text, bridge_of(layers))
    assert sum(math.prod(shape) for shape in layout.values()) == count
    last = f"interaction_layers.{layers - 1}"
    assert {name for name in layout if name.startswith(last)} == {
        f"{last}.{part}.{leaf}"
        for part in (
            *("vision_norm", "text_norm", "vision_to_shared", "text_to_shared", "shared_to_text", "shared_to_vision"),
            *("Q_text", "K_vision_to_text", "V_vision_to_text", "O_text"),
            *("Q_vision", "K_text_to_vision", "V_text_to_vision", "O_vision"),
        )
        for leaf in ("weight", "bias")
    } | {f"{last}.{name}" for name in ("tau_text_param", "tau_vision_param", "gate_text_bias", "gate_vision_bias")}
    assert layout["vision_encoder.vit.embeddings.position_embeddings"] == (1, 197, 768)
    assert layout["text_encoder.bert.encoder.layer.11.attention.self.query.weight"] == (768, 768)
    assert layout["itm_head.0.weight"] == (256, 513)
    assert layout["mlm_head.3.weight"] == (30522, 768)
    assert layout["logit_scale"] == ()


def test_authors_layout_refuses_a_dinov2_tower(vision, text):
    with refused("config.vision.layer_scale: expected False for model_type 'vit', got True"):
        names_authors.layout(dataclasses.replace(vision, layer_scale=True), text, bridge_of(2))
