"""The heads that come with a loss of their own, in the exported PyTorch model."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge_jax import optim
from bridge_jax.config import ConfigError
from bridge_jax.interop import torch_export, torch_import
from tests import tiny
from tests.interop.test_torch_model import assert_equal, difference, exported, ours, pairs_of, small, torch_inputs


def test_the_vqa_head(shared, tmp_path):
    """Logits, the answers as words, and the way back with the words."""
    cfg = small(stage=dict(losses=("vqa",)))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    words = ("yes", "no", "red", "two dogs", "don't")
    model = exported(cfg, params, tmp_path, words)

    def answers(bridge):
        return bridge.answers(ours(bridge, batch)[2], jnp.asarray(batch.text_mask))

    expected = tiny.apply(cfg, params, answers)
    with torch.no_grad():
        assert difference(expected, model.answer_logits(*torch_inputs(cfg, batch))) <= 1e-4
        assert model.answer(*torch_inputs(cfg, batch)) == [words[i] for i in expected.argmax(axis=-1)]
    model.save_pretrained(tmp_path / "again")
    meta, _, back = torch_import.read(tmp_path / "again")
    assert meta.answers == words
    assert all(np.array_equal(leaf, optim.flatten(params)[path]) for path, leaf in optim.flatten(back).items())


def test_the_bias_of_the_sigmoid_loss(shared, tmp_path):
    cfg = small(stage=dict(losses=("sigmoid",)))
    params = tiny.params(cfg)
    model = exported(cfg, params, tmp_path)
    assert model.logit_bias().item() == params["heads"]["sigmoid"]["bias"]
    assert_equal(cfg, params, pairs_of(cfg, shared)[0], model)
    assert "sigmoid" in torch_import.read(tmp_path / "model")[2]["heads"]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (dict(stage=dict(losses=("nlvr2",))), "config.losses.nlvr2: the PyTorch model has no head for statements"),
        (dict(data=dict(squash=True)), "config.data.squash is True, but the exported processor shows the square"),
    ],
)
def test_what_the_pytorch_model_cannot_do_is_not_exported(sections, says, tmp_path):
    cfg = tiny.config(**sections)
    with pytest.raises(ConfigError, match=says):
        torch_export.write(tmp_path / "out", cfg, {}, None, None, "")
    assert not (tmp_path / "out").exists()
