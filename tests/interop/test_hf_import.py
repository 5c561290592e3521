"""What the import takes, and each way in which it refuses; the folders are written from numpy (see conftest.py)."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import, names


def refused(text: str):
    return pytest.raises(ConfigError, match=re.escape(text))


def assert_filled(params, folder, entries):
    for entry in entries:
        leaf = params
        for key in entry.path.split("/")[1:]:
            leaf = leaf[key]
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(entry.to_stored(leaf), folder.tensors[entry.name])


def test_vision_round_trip(vit_folder, vision):
    params = hf_import.vision_params(vit_folder.write(), vision)
    assert_filled(params, vit_folder, names.vision(vision, "vit"))


def test_text_round_trip(bert_folder, text):
    params = hf_import.text_params(str(bert_folder.write()), text)
    assert_filled(params, bert_folder, names.text(text, "bert"))


def test_prefix_old_norm_names_and_heads_are_understood(bert_folder, text):
    plain = dict(bert_folder.tensors)
    old = {"weight": "gamma", "bias": "beta"}
    bert_folder.tensors = {
        "bert." + re.sub(r"(?<=LayerNorm\.)(weight|bias)$", lambda m: old[m[1]], name): array
        for name, array in plain.items()
    }
    heads = {
        "bert.pooler.dense.weight": np.zeros((8, 8), np.float32),
        "bert.embeddings.position_ids": np.arange(10)[None],
        "cls.predictions.transform.LayerNorm.gamma": np.zeros(8, np.float32),
        "cls.predictions.bias": np.zeros(20, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 8), np.float32),
    }
    bert_folder.tensors |= heads
    imported = hf_import.import_text(bert_folder.write(), text)
    assert set(imported.excused) == set(heads)
    assert set(imported.used) == set(bert_folder.tensors) - set(heads)
    bert_folder.tensors = plain
    assert_filled(imported.params, bert_folder, names.text(text, "bert"))


def test_image_classifier_head_and_pooler_are_excused(vit_folder, vision):
    vit_folder.tensors = {f"vit.{name}": array for name, array in vit_folder.tensors.items()}
    heads = {"classifier.weight", "classifier.bias", "vit.pooler.dense.weight", "vit.pooler.dense.bias"}
    vit_folder.tensors |= {name: np.zeros(8, np.float32) for name in heads}
    assert set(hf_import.import_vision(vit_folder.write(), vision).excused) == heads


@pytest.mark.parametrize(
    ("key", "ours", "expected"),
    [
        ("tower", "other", "'vit'"),
        ("depth", 3, "2"),
        ("width", 16, "8"),
        ("heads", 4, "2"),
        ("mlp_width", 32, "16"),
        ("patch_px", 2, "4"),
        ("position_grid", 4, "3"),
        ("layer_scale", True, "False"),
        ("norm_eps", 1e-6, "1e-12"),
    ],
)
def test_vision_config_mismatch_names_the_key(vit_folder, vision, key, ours, expected):
    path = vit_folder.write()
    with refused(f"config.vision.{key}: expected {expected} as in {path}/config.json, got {ours!r}"):
        hf_import.vision_params(path, dataclasses.replace(vision, **{key: ours}))


@pytest.mark.parametrize(
    ("key", "ours", "expected"),
    [
        ("depth", 3, "2"),
        ("width", 16, "8"),
        ("heads", 4, "2"),
        ("mlp_width", 32, "16"),
        ("vocab_size", 30522, "20"),
        ("max_positions", 512, "10"),
        ("token_types", 1, "2"),
        ("norm_eps", 1e-5, "1e-12"),
    ],
)
def test_text_config_mismatch_names_the_key(bert_folder, text, key, ours, expected):
    path = bert_folder.write()
    with refused(f"config.text.{key}: expected {expected} as in {path}/config.json, got {ours!r}"):
        hf_import.text_params(path, dataclasses.replace(text, **{key: ours}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "gelu_new", "hidden_act is 'gelu_new'; the image tower is built for 'gelu' only"),
        ("qkv_bias", False, "qkv_bias is False; the image tower is built for True only"),
        ("num_channels", 1, "num_channels is 1; the image tower is built for 3 only"),
        ("model_type", "swin", "model_type 'swin' cannot fill the image tower; expected 'vit' or 'dinov2' or "),
        ("model_type", "bert", "model_type 'bert' cannot fill the image tower; expected 'vit' or 'dinov2' or "),
        ("patch_size", [4, 2], "patch_size is [4, 2]; the image tower needs a square"),
        ("image_size", [12, 24], "image_size is [12, 24]; the image tower needs a square"),
    ],
)
def test_what_the_image_tower_cannot_be_is_refused(vit_folder, vision, key, value, message):
    vit_folder.config[key] = value
    with refused(f"config.json: {message}"):
        hf_import.vision_params(vit_folder.write(), vision)


def test_dinov2_swiglu_is_refused(vit_folder, vision):
    vit_folder.config |= {"model_type": "dinov2", "mlp_ratio": 2, "use_swiglu_ffn": True}
    with refused("config.json: use_swiglu_ffn is True; the image tower is built for False only"):
        hf_import.vision_params(vit_folder.write(), vision)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "gpt2", "model_type 'gpt2' cannot fill the text tower; expected 'bert' or 'roberta' or "),
        ("hidden_act", "relu", "hidden_act is 'relu'; the text tower is built for 'gelu' only"),
        ("is_decoder", True, "is_decoder is True; the text tower is built for False only"),
        (
            "position_embedding_type",
            "relative_key",
            "position_embedding_type is 'relative_key'; the text tower is built for 'absolute' only",
        ),
    ],
)
def test_what_the_text_tower_cannot_be_is_refused(bert_folder, text, key, value, message):
    bert_folder.config[key] = value
    with refused(f"config.json: {message}"):
        hf_import.text_params(bert_folder.write(), text)


def test_a_config_without_a_needed_key_is_refused(bert_folder, text):
    del bert_folder.config["type_vocab_size"]
    with refused("config.json: key 'type_vocab_size' is missing"):
        hf_import.text_params(bert_folder.write(), text)


def test_a_square_given_as_a_pair_is_a_square(vit_folder, vision):
    vit_folder.config |= {"image_size": [12, 12], "patch_size": [4, 4]}
    hf_import.vision_params(vit_folder.write(), vision)


def test_both_sides_of_a_mismatch_are_listed(bert_folder, text):
    del bert_folder.tensors["encoder.layer.1.attention.self.key.bias"]
    bert_folder.tensors["encoder.layer.1.attention.self.clef.bias"] = np.zeros(8, np.float32)
    with refused(
        "tensors that fill no parameter: encoder.layer.1.attention.self.clef.bias; "
        "parameters without a tensor: text/block_01/attention/key/bias"
    ):
        hf_import.text_params(bert_folder.write(), text)


def test_a_block_too_many_is_not_dropped_silently(vit_folder, vision):
    extra = {n.replace("layer.1.", "layer.2."): a for n, a in vit_folder.tensors.items() if "layer.1." in n}
    vit_folder.tensors |= extra
    with refused("and 8 more; parameters without a tensor: none"):
        hf_import.vision_params(vit_folder.write(), vision)


def test_a_tensor_of_the_wrong_shape_is_named(vit_folder, vision):
    vit_folder.tensors["embeddings.position_embeddings"] = np.zeros((1, 17, 8), np.float32)
    with refused(
        "tensor 'embeddings.position_embeddings' has shape (1, 17, 8); expected (1, 10, 8) to fill 'vision/position'"
    ):
        hf_import.vision_params(vit_folder.write(), vision)


def test_two_tensors_of_one_meaning_are_refused(bert_folder, text):
    bert_folder.tensors["bert.embeddings.LayerNorm.gamma"] = np.ones(8, np.float32)
    with refused("both mean 'embeddings.LayerNorm.weight'; keep one"):
        hf_import.text_params(bert_folder.write(), text)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_mask_token_is_used_excused_or_started_at_zero(make_folder, vision, stored, wanted):
    cfg = dataclasses.replace(vision, layer_scale=True, mask_token=stored)
    folder = make_folder("dinov2", names.vision(cfg, "dinov2"))
    imported = hf_import.import_vision(folder.write(), dataclasses.replace(cfg, mask_token=wanted))
    assert imported.excused == (("embeddings.mask_token",) if stored and not wanted else ())
    assert imported.fresh == (("vision/mask_token",) if wanted and not stored else ())
    assert ("mask_token" in imported.params) == wanted
    if wanted:
        token = imported.params["mask_token"]
        assert token.shape == (1, 1, 8)
        expected = folder.tensors["embeddings.mask_token"] if stored else np.zeros((1, 8))
        np.testing.assert_array_equal(token[0], expected)


def test_the_towers_own_normalisation_is_enforced(vit_folder, vision):
    path = vit_folder.write()
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})
    )
    with refused("config.vision.mean: expected (0.485, 0.456, 0.406)"):
        hf_import.vision_params(path, vision)
    right = dataclasses.replace(vision, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert jax.tree.leaves(hf_import.vision_params(path, right))
    (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert hf_import.preprocessing(path) == {"mean": (0.0,) * 3, "std": (1.0,) * 3}
