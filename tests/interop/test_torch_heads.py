"""The heads that come with a loss of their own, in the exported PyTorch model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge_jax import paths
from bridge_jax.config import ConfigError
from bridge_jax.interop import torch_export, torch_import
from bridge_jax.losses import nlvr2, snli_ve, vqa
from bridge_jax.models import search
from bridge_jax.step import forward
from bridge_jax.types import Lower
from tests import tiny
from tests.interop.test_torch_model import assert_equal, difference, exported, ours, pairs_of, small, torch_inputs


def test_the_vqa_head(shared, tmp_path):
    """Logits, the answers as words, and the way back with the words."""
    cfg = small(stage=dict(losses=("vqa",)))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    words = ("yes", "no", "red", "two dogs", "don't")
    model = exported(cfg, params, tmp_path, words)

    def answers(bridge):
        return vqa.score(bridge, ours(bridge, batch)[2], jnp.asarray(batch.text_mask))

    expected = tiny.apply(cfg, params, answers)
    with torch.no_grad():
        assert difference(expected, model.answer_logits(*torch_inputs(cfg, batch))) <= 1e-4
        assert model.answer(*torch_inputs(cfg, batch)) == [words[i] for i in expected.argmax(axis=-1)]
    model.save_pretrained(tmp_path / "again")
    meta, _, back = torch_import.read(tmp_path / "again")
    assert meta.answers == words
    assert all(np.array_equal(leaf, paths.flatten(params)[path]) for path, leaf in paths.flatten(back).items())


def test_the_bias_of_the_sigmoid_loss(shared, tmp_path):
    cfg = small(stage=dict(losses=("sigmoid",)))
    params = tiny.params(cfg)
    model = exported(cfg, params, tmp_path)
    assert model.logit_bias().item() == params["heads"]["sigmoid"]["bias"]
    assert_equal(cfg, params, pairs_of(cfg, shared)[0], model)
    assert "sigmoid" in torch_import.read(tmp_path / "model")[2]["heads"]


@pytest.mark.parametrize("design", ["cross", "self_cross"])
def test_the_match_logit_reads_the_tokens(shared, tmp_path, design):
    cfg = small(design, stage=dict(losses=("token_itc", "itm")))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    model = exported(cfg, params, tmp_path)
    assert_equal(cfg, params, batch, model)
    with torch.no_grad():
        found = model(*torch_inputs(cfg, batch))
        alone = model.heads.itm(found.fused_text_embeds, found.fused_image_embeds)
        assert (found.match_logits - alone).std() > 1e-3
    assert "token_itc" in torch_import.read(tmp_path / "model")[2]["heads"]


@pytest.mark.parametrize("reads", ["image", "fused"])
def test_the_decoder(shared, tmp_path, reads):
    """Logits of every word, the captions that a search finds, and the way back."""
    cfg = small(stage=dict(losses=("caption",)), decoder=dict(reads=reads))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    model = exported(cfg, params, tmp_path)
    tokens = search.SpecialTokens(start=2, end=3, pad=0, length=cfg.text.length)
    ids = np.tile([[2, 3, *[0] * (cfg.text.length - 2)]], (len(batch.ids), 1))
    mask = np.arange(cfg.text.length) < np.full((len(ids), 1), 2)
    how = dataclasses.replace(cfg.evals["caption"], beams=3)

    def lower(bridge):
        text = bridge.lower_text(ids, mask)
        return Lower(image=bridge.lower_image(batch.images), text=text, text_mask=jnp.asarray(mask))

    logits = tiny.apply(cfg, params, lambda m: m.decoder(jnp.asarray(batch.ids), m.memory(lower(m))))
    rows = jnp.arange(len(ids))
    written = tiny.apply(cfg, params, lambda m: search.captions(m, lower(m), rows, tokens, how))
    pixels, empty = torch_inputs(cfg, batch)[0], (torch.tensor(ids), torch.tensor(mask))
    with torch.no_grad():
        assert difference(logits, model.caption_logits(pixels, *empty, torch.tensor(batch.ids).long())) <= 1e-4
        found = model.generate(pixels, *empty, num_beams=3, length_penalty=how.length_penalty).numpy()
    for mine, theirs in zip(np.asarray(written), found, strict=True):
        words = int(np.argmax(theirs[1:] == tokens.end)) + 2
        np.testing.assert_array_equal(mine[:words], theirs[:words])
        assert (theirs[words:] == tokens.end).all()
    assert len({tuple(row) for row in found.tolist()}) > 1
    _, _, back = torch_import.read(tmp_path / "model")
    assert all(np.array_equal(leaf, paths.flatten(params)[path]) for path, leaf in paths.flatten(back).items())


def test_the_decoder_that_answers(shared, tmp_path):
    """Likelihoods of answers of several lengths, what `generate` writes of a question, and what is refused."""
    cfg = small(stage=dict(losses=("vqa_generative",)))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    model = exported(cfg, params, tmp_path)
    mask = np.arange(cfg.text.length) < np.array([[3], [5], [3], [2]])
    ids = np.where(mask, np.random.default_rng(0).integers(3, 20, mask.shape), 0)

    def likelihoods(bridge):
        text, seen = bridge.lower_text(batch.ids, batch.text_mask), jnp.asarray(batch.text_mask)
        lower = Lower(image=bridge.lower_image(batch.images), text=text, text_mask=seen)
        return search.likelihoods(bridge, lower, [row[said].tolist() for row, said in zip(ids, mask, strict=True)])

    expected, inputs = tiny.apply(cfg, params, likelihoods), torch_inputs(cfg, batch)
    found = model.answer_likelihoods(*inputs, torch.tensor(ids), torch.tensor(mask))
    assert difference(expected, found) <= 1e-4
    assert (found[0] - found[1]).abs().max() > 1e-2
    assert model.generate(*inputs).shape == (len(batch.ids), cfg.text.length)
    with pytest.raises(ValueError, match="no vqa head; its decoder answers: rank answers with answer_likelihoods"):
        model.answer(*inputs)
    (tmp_path / "other").mkdir()
    captions = exported(small(stage=dict(losses=("caption",)), decoder=dict(reads="fused")), params, tmp_path / "other")
    with pytest.raises(ValueError, match="without the vqa_generative loss"):
        captions.answer_likelihoods(*inputs, torch.tensor(ids), torch.tensor(mask))
    _, _, back = torch_import.read(tmp_path / "model")
    assert all(np.array_equal(leaf, paths.flatten(params)[path]) for path, leaf in paths.flatten(back).items())


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_judge_of_statements(shared, tmp_path, pictures):
    settings = dict(nlvr2=dict(weight=1.0, pictures=pictures))
    cfg = small(stage=dict(losses=("nlvr2",)), losses=settings)
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    model = exported(cfg, params, tmp_path)
    images = np.stack([batch.images, batch.images[::-1]], axis=1)[:, :pictures]

    def judge(bridge):
        text, mask = bridge.lower_text(batch.ids, batch.text_mask), jnp.asarray(batch.text_mask)
        lower = Lower(image=forward.lower_images(bridge, images), text=text, text_mask=mask)
        pairs = forward.each_picture(lower)
        return nlvr2.judge(bridge, bridge.fused(pairs), pairs.text_mask)

    expected = tiny.apply(cfg, params, judge)
    sides = [torch_inputs(cfg, dataclasses.replace(batch, images=images[:, k])) for k in range(pictures)]
    pixels = torch.stack([side[0] for side in sides], 1)
    with torch.no_grad():
        assert difference(expected, model.judge(pixels, *sides[0][1:])) <= 1e-4
    _, _, back = torch_import.read(tmp_path / "model")
    assert all(np.array_equal(leaf, paths.flatten(params)[path]) for path, leaf in paths.flatten(back).items())


def test_a_classifier_that_has_no_method_of_its_own(shared, tmp_path):
    cfg = small(stage=dict(losses=("snli_ve",)))
    params, batch = tiny.params(cfg), pairs_of(cfg, shared)[0]
    model = exported(cfg, params, tmp_path)

    def labels(bridge):
        return snli_ve.judge(bridge, ours(bridge, batch)[2], jnp.asarray(batch.text_mask))

    with torch.no_grad():
        found = model.classify("snli_ve", *torch_inputs(cfg, batch))
    assert found.shape == (len(batch.ids), 3)
    assert difference(tiny.apply(cfg, params, labels), found) <= 1e-4
    with pytest.raises(ValueError, match="this checkpoint has no classifier 'vqa'; it has: snli_ve"):
        model.classify("vqa", *torch_inputs(cfg, batch))
    _, _, back = torch_import.read(tmp_path / "model")
    assert all(np.array_equal(leaf, paths.flatten(params)[path]) for path, leaf in paths.flatten(back).items())


def test_a_head_that_pytorch_cannot_build_is_named():
    cfg, head = small(), {"scale": np.zeros(())}
    with pytest.raises(ConfigError, match=r"heads/caption is no classifier of models\.heads\.pooled or features"):
        torch_export._classifiers(cfg, {"heads": {"itm": head, "caption": head}})
