"""Hugging Face's own classes lift either tower out of an exported folder and compute the same states.

The reference is the exported model's tower, which tests/interop/test_torch_model.py holds to ours.
"""

import dataclasses

import pytest
import torch
import transformers

from bridge_jax.config import Text
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.data.text import Tokenizer
from bridge_jax.interop import torch_export
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.workdir.meta import Meta
from tests import tiny, towers

# In transformers 4 these classes hold the tower as `vision_model` or `text_model`, as an export does.
WRAPPED_IN_4 = ("clip_vision_model", "siglip_vision_model", "clip_text_model", "siglip_text_model")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # ModernBERT of transformers 4 compiles
@pytest.mark.parametrize("name", towers.KINDS)
def test_a_tower_is_lifted_out(tmp_path, name):
    kind = towers.KINDS[name]
    section = dataclasses.replace(kind.section, vocab_size=50400) if name == "modernbert" else kind.section
    cfg = tiny.config(stage=dict(losses=("itc",)), **{kind.side: dataclasses.asdict(section)})
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
    meta = Meta(schema=SCHEMA, step=1, stage="train", config=as_dict(cfg))
    folder = tmp_path / "exported"
    torch_export.write(folder, cfg, tiny.params(cfg), meta, Tokenizer(vocabulary, cfg.text.length), "")

    as_it_is = transformers.__version__.startswith("4.") and name in WRAPPED_IN_4
    key_mapping = None if as_it_is else {rf"^{kind.side}_model\.": ""}
    model, report = getattr(transformers, kind.model).from_pretrained(
        folder, key_mapping=key_mapping, output_loading_info=True
    )
    assert not [key for key in report["missing_keys"] if not {"pooler", "head"} & set(key.split("."))]
    assert not report["mismatched_keys"]
    whole = BridgeModel.from_pretrained(folder)
    with torch.no_grad():
        if isinstance(section, Text):
            ids = torch.randint(5, 60, (2, section.length), generator=torch.Generator().manual_seed(0))
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            tower, states = whole.text_model, whole.text_model.embed(ids)
            expected = tower.finish(tower.blocks(states, None, 0, section.depth))
        else:
            pixels = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
            found = model(pixels).last_hidden_state
            if name == "clip_vision_model":  # which normalises the class token alone
                found = getattr(model, "vision_model", model).post_layernorm(found)
            tower, states = whole.vision_model, whole.vision_model.embed(pixels)
            expected = tower.finish(tower.blocks(states, 0, section.depth))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
