"""Models of two towers, as the hub has them: one file whose two sides fill ours."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import
from tests import towers
from tools import import_hf


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_pair_of_towers_fills_both_sides(tmp_path, name, capsys):
    """As the hub has them: one file, and SigLIP's config.json leaves out what is a default."""
    vision, text = towers.KINDS[f"{name}_vision_model"], towers.KINDS[f"{name}_text_model"]
    prefix = {"clip": "CLIP", "siglip": "Siglip"}[name]
    sides = {f"{kind.side}_config": kind.torch_model().config.to_dict() for kind in (vision, text)}
    pair = getattr(transformers, f"{prefix}Model")(getattr(transformers, f"{prefix}Config")(**sides))
    pair.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("layer_norm_eps", "hidden_act", "num_channels", "model_type"):
        config["vision_config"].pop(key)
        config["text_config"].pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config))

    imported = [
        hf_import.import_vision(tmp_path, vision.section),
        hf_import.import_text(tmp_path, text.section),
    ]
    stored = {key for key in pair.state_dict() if not key.endswith("position_ids")}
    assert stored == set(imported[0].used) | set(imported[1].used) | set(imported[0].excused) & set(imported[1].excused)
    patch = pair.vision_model.embeddings.patch_embedding.weight.detach().numpy()
    assert np.array_equal(imported[0].params["patch"]["kernel"].transpose(3, 2, 0, 1), patch)
    words = pair.text_model.embeddings.token_embedding.weight.detach().numpy()
    assert np.array_equal(imported[1].params["word"]["embedding"], words)
    import_hf.main(["import_hf", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.index("vision = dict(") < printed.index("text = dict(")
    assert printed.count(f"tower='{name}'") == 2


def test_both_towers_of_a_tipsv2_are_read_from_one_file(tmp_path, capsys):
    vision, text = towers.KINDS["tipsv2_vision_model"], towers.KINDS["tipsv2_text_model"]
    sides = {f"{kind.side}_config": kind.torch_model().config.to_dict() for kind in (vision, text)}
    pair = transformers.Tipsv2Model(transformers.Tipsv2Config(**sides))
    pair.save_pretrained(tmp_path)
    imported = hf_import.import_vision(tmp_path, vision.section), hf_import.import_text(tmp_path, text.section)
    assert set(imported[0].excused) == {*imported[1].used, "temperature"}
    assert set(imported[1].excused) == {*imported[0].used, "temperature"}
    keys = pair.vision_model.encoder.layer[1].attention.k_proj.weight.detach().numpy()
    assert np.array_equal(imported[0].params["block_01"]["attention"]["qkv"]["kernel"][:, 32:64].T, keys)
    with pytest.raises(ConfigError, match=r"config.text.width: expected 32 as in .*, got 16"):
        hf_import.import_text(tmp_path, dataclasses.replace(text.section, width=16))
    import_hf.main(["import_hf", str(tmp_path)])
    assert capsys.readouterr().out.count("tower='tipsv2'") == 2


def test_the_activation_of_a_clip_decides_its_tower(tmp_path):
    kind = towers.KINDS["clip_vision_model"]
    kind.torch_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(ConfigError, match=r"config.vision.tower: expected 'open_clip' as in .*, got 'clip'"):
        hf_import.vision_params(tmp_path, kind.section)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(
        ConfigError, match="hidden_act is 'relu'; the image tower is built for 'quick_gelu' or 'gelu' only"
    ):
        hf_import.vision_params(tmp_path, kind.section)


@pytest.mark.parametrize(("activation", "tower"), [("quick_gelu", "clip"), ("gelu", "open_clip")])
def test_both_towers_of_a_metaclip_2_equal_torch(tmp_path, activation, tower, capsys):
    kinds = {kind.side: kind for kind in (towers.KINDS["clip_vision_model"], towers.KINDS["clip_text_model"])}
    sides = {
        f"{side}_config": kind.torch_model().config.to_dict() | {"hidden_act": activation, "model_type": ""}
        for side, kind in kinds.items()
    }
    pair = transformers.MetaClip2Model(transformers.MetaClip2Config(**sides)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in pair.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    pair.save_pretrained(tmp_path)
    kinds = {
        side: dataclasses.replace(k, section=dataclasses.replace(k.section, tower=tower)) for side, k in kinds.items()
    }

    draw = np.random.default_rng(0)
    pixels = draw.normal(size=(2, 20, 20, 3)).astype(np.float32)
    ids, mask = draw.integers(5, 60, (2, 7)), np.arange(7) < np.array([[7], [4]])
    found = kinds["vision"].run(hf_import.vision_params(tmp_path, kinds["vision"].section), pixels)
    words = kinds["text"].run(hf_import.text_params(tmp_path, kinds["text"].section), ids, mask)
    with torch.no_grad():
        images = pair.vision_model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state
        images = pair.vision_model.post_layernorm(images).numpy()
        texts = pair.text_model(torch.from_numpy(ids), torch.from_numpy(mask.astype(int))).last_hidden_state.numpy()
    assert np.abs(found - images).max() < 1e-4
    assert np.abs(words - texts)[mask].max() < 1e-4
    import_hf.main(["import_hf", str(tmp_path)])
    assert capsys.readouterr().out.count(f"tower='{tower}'") == 2
