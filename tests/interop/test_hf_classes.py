"""The table of names against what Hugging Face writes and reads: models with heads, and our weights in theirs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import save_model

from bridge_jax.config import ConfigError, Text
from bridge_jax.interop import hf_import, names
from tests import towers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

COMMON = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = COMMON | {"intermediate_size": 16, "image_size": 12, "patch_size": 4, "encoder_stride": 4}
DINOV2 = COMMON | {"mlp_ratio": 2, "image_size": 12, "patch_size": 4}
BERT = COMMON | {"intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 10}


def saved(model: torch.nn.Module, folder) -> int:
    """Save `model` with random parameters; return how many parameters its base tower has, the pooler left out."""
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape)
    model.save_pretrained(folder)
    base = model.base_model
    return sum(p.numel() for name, p in base.named_parameters() if not name.startswith("pooler."))


@pytest.mark.parametrize("head", ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"])
def test_vit_classes(tmp_path, vision, head):
    count = saved(getattr(transformers, head)(transformers.ViTConfig(**VIT)), tmp_path)
    cfg = dataclasses.replace(vision, mask_token=head == "ViTForMaskedImageModeling")
    check(hf_import.import_vision(tmp_path, cfg), count)


@pytest.mark.parametrize("head", ["Dinov2Model", "Dinov2ForImageClassification"])
def test_dinov2_classes(tmp_path, vision, head):
    count = saved(getattr(transformers, head)(transformers.Dinov2Config(**DINOV2)), tmp_path)
    check(
        hf_import.import_vision(
            tmp_path, dataclasses.replace(vision, layer_scale=True, mask_token=True, norm_eps=1e-6)
        ),
        count,
    )


def test_other_dinov2s_with_registers_are_refused(tmp_path):
    kind = towers.KINDS["dinov2_with_registers"]
    kind.torch_model().save_pretrained(tmp_path)
    for changes, says in (
        (dict(patch_px=2), "config.vision.patch_px: expected 4 as in .*, got 2"),
        (dict(width=16), "config.vision.width: expected 32 as in .*, got 16"),
        (dict(tower="vit"), "config.vision.tower: expected 'dinov2_with_registers' as in .*, got 'vit'"),
    ):
        with pytest.raises(ConfigError, match=says):
            hf_import.vision_params(tmp_path, dataclasses.replace(kind.section, **changes))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_register_tokens": 1}))
    with pytest.raises(ConfigError, match="num_register_tokens is 1; the image tower is built for 4 only"):
        hf_import.vision_params(tmp_path, kind.section)


@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForQuestionAnswering"])
def test_bert_classes(tmp_path, text, head):
    count = saved(getattr(transformers, head)(transformers.BertConfig(**BERT)), tmp_path)
    check(hf_import.import_text(tmp_path, text), count)


def check(imported: hf_import.Imported, count: int) -> None:
    leaves = [leaf for _, leaf in _leaves(imported.params)]
    assert sum(leaf.size for leaf in leaves) == count
    assert len(leaves) == len(imported.used)
    assert not imported.fresh


def _leaves(tree: dict, path: str = "") -> list[tuple[str, np.ndarray]]:
    found = []
    for key, value in tree.items():
        here = f"{path}/{key}" if path else key
        found += _leaves(value, here) if isinstance(value, dict) else [(here, value)]
    return found


@pytest.mark.parametrize("head", ["RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"])
def test_roberta_classes(tmp_path, text, head):
    count = saved(getattr(transformers, head)(transformers.RobertaConfig(**BERT)), tmp_path)
    check(hf_import.import_text(tmp_path, dataclasses.replace(text, tower="roberta")), count)


@pytest.mark.parametrize("head", ["XLMRobertaModel", "XLMRobertaForMaskedLM"])
def test_xlm_roberta_classes(tmp_path, text, head):
    count = saved(getattr(transformers, head)(transformers.XLMRobertaConfig(**BERT)), tmp_path)
    check(hf_import.import_text(tmp_path, dataclasses.replace(text, tower="xlm_roberta")), count)
    for changes, says in (
        (dict(tower="roberta"), "config.text.tower: expected 'xlm_roberta' as in .*, got 'roberta'"),
        (dict(tower="xlm_roberta", vocab_size=21), "config.text.vocab_size: expected 20 as in .*, got 21"),
    ):
        with pytest.raises(ConfigError, match=says):
            hf_import.import_text(tmp_path, dataclasses.replace(text, **changes))


def test_a_bert_is_no_roberta(tmp_path, text):
    saved(transformers.RobertaModel(transformers.RobertaConfig(**BERT)), tmp_path)
    with pytest.raises(ConfigError, match=r"config.text.tower: expected 'roberta' as in .*, got 'bert'"):
        hf_import.text_params(tmp_path, text)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    with pytest.raises(ConfigError, match="pad_token_id is 0; the text tower is built for 1 only"):
        hf_import.text_params(tmp_path, dataclasses.replace(text, tower="roberta"))


@pytest.mark.parametrize("name", ["dinov2_with_registers", "xlm-roberta"])
def test_shards_of_bfloat16_are_read(tmp_path, name):
    kind = towers.KINDS[name]
    model = kind.torch_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert "BF16" in str(next(tmp_path.glob("model-*.safetensors")).read_bytes()[:500])
    read = hf_import.text_params if kind.side == "text" else hf_import.vision_params
    found = dict(_leaves(read(tmp_path, kind.section)))
    whole = dict(_leaves(kind.params(model.float(), tmp_path / "whole")))
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[path], whole[path]) for path in whole)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_words_tied_to_the_head_are_found_under_either_name(tmp_path, name):
    """`save_model` keeps the first name of a tied tensor: that of the head in all but BERT."""
    kind = towers.KINDS[name]
    config = kind.torch_model().config
    model = getattr(transformers, kind.model.replace("Model", "ForMaskedLM"))(config)
    model.config.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    imported = hf_import.import_text(tmp_path, kind.section)
    words = model.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(imported.params["word"]["embedding"], words)
    (tmp_path / "config.json").unlink()
    model.save_pretrained(tmp_path)
    again = hf_import.text_params(tmp_path, kind.section)
    assert np.array_equal(again["word"]["embedding"], words)


@pytest.mark.parametrize("name", towers.KINDS)
def test_our_weights_load_into_torch_and_come_back_bit_for_bit(tmp_path, name):
    kind = towers.KINDS[name]
    is_text = isinstance(kind.section, Text)
    entries = names.text(kind.section, name) if is_text else names.vision(kind.section, name)
    draw = np.random.default_rng(0)
    ours = {entry.path: draw.normal(size=entry.shape).astype(np.float32) for entry in entries}
    save_file({e.name: e.to_stored(ours[e.path]) for e in entries}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(kind.torch_model().config.to_dict()))

    model_class = getattr(transformers, kind.model)
    model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert all(names.excused(names.bare_name(key, name), name, False) for key in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    model.save_pretrained(tmp_path / "again")
    read = hf_import.text_params if is_text else hf_import.vision_params
    back = dict(_leaves(read(tmp_path / "again", kind.section)))
    assert back.keys() == {path.split("/", 1)[1] for path in ours}
    for path, array in ours.items():
        assert back[path.split("/", 1)[1]].tobytes() == array.tobytes(), path


@pytest.mark.parametrize("head", ["ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"])
def test_modernbert_classes(tmp_path, head):
    kind = towers.KINDS["modernbert"]
    count = saved(getattr(transformers, head)(kind.torch_model().config), tmp_path)
    check(hf_import.import_text(tmp_path, kind.section), count)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"global_attn_every_n_layers": 2}, "global_attn_every_n_layers is 2; the text tower is built for 3 only"),
        ({"layer_types": ["full_attention"] * 5}, r"layer_types is \['full_attention', .* the text tower is built for"),
        ({"local_attention": 64}, "local_attention is 64; the text tower is built for 128 only"),
        ({"local_rope_theta": 160000.0}, "local_rope_theta is 160000.0; the text tower is built for 10000.0 only"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters is .* the text tower is built for"),
        ({"mlp_bias": True}, "mlp_bias is True; the text tower is built for False only"),
    ],
)
def test_another_modernbert_is_refused(tmp_path, changes, says):
    kind = towers.KINDS["modernbert"]
    kind.torch_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=says):
        hf_import.text_params(tmp_path, kind.section)


def test_the_released_words_for_a_modernbert_are_read(tmp_path):
    """The hub's config.json has transformers 4's keys; what is exported has them too, and transformers reads both."""
    kind = towers.KINDS["modernbert"]
    model = kind.torch_model()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"layer_types", "rope_parameters"} <= config.keys()
    released = {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    config = {k: v for k, v in config.items() if k not in ("layer_types", "rope_parameters")} | released
    (tmp_path / "config.json").write_text(json.dumps(config))
    hf_import.text_params(tmp_path, kind.section)
    again = transformers.ModernBertConfig.from_pretrained(tmp_path)
    assert again.layer_types == model.config.layer_types
    assert again.rope_parameters == model.config.rope_parameters
