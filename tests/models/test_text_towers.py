"""Every text tower against its torch class of Hugging Face, with every parameter drawn at random."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from bridge_jax import paths
from bridge_jax.config import Blocks, ConfigError
from tests import towers

LENGTH = towers.TEXT.length
MASK = np.arange(LENGTH) < np.array([[7], [4], [1]])  # full, padded, a single token
DRAWN = np.random.default_rng(0).integers(5, towers.TEXT.vocab_size, MASK.shape)
WEIGHT = np.random.default_rng(4).normal(size=(*MASK.shape, towers.WIDTH)).astype(np.float32) * MASK[..., None]


class Twins:
    """Our tower and theirs with the same parameters, and captions padded with the id that the tower expects."""

    def __init__(self, name, folder):
        self.kind = towers.KINDS[name]
        self.model = self.kind.torch_model()
        self.params = self.kind.params(self.model, folder)
        pad_id = self.model.config.pad_token_id
        self.ids = np.where(MASK, DRAWN, 0 if pad_id is None else pad_id)

    def ours(self, ids, mask):
        return np.asarray(jax.jit(self.kind.run)(self.params, ids, mask))

    def theirs(self, ids, mask) -> torch.Tensor:
        mask = torch.from_numpy(mask.astype(np.int64))
        return self.model(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state


# BERT: test_bert.py. XLM-RoBERTa is RoBERTa's module, and is held to torch as a whole.
@pytest.fixture(scope="module", params=[name for name in towers.TEXT_KINDS if name not in ("bert", "xlm-roberta")])
def twins(request, tmp_path_factory) -> Twins:
    return Twins(request.param, tmp_path_factory.mktemp(request.param))


def test_parameter_paths_are_those_of_the_tower(twins):
    def run(tower, ids, mask):
        return tower.finish(tower.blocks(tower.embed(ids, True), mask, 0, twins.kind.section.depth, True))

    made = jax.eval_shape(lambda: twins.kind.tower().init(jax.random.key(0), twins.ids, MASK, method=run)["params"])
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, twins.params)


def test_each_block_equals_torch(twins):
    """Hooks record their states before and after each block; our block runs on theirs before."""
    blocks = [m for m in twins.model.modules() if type(m).__name__ == twins.kind.block]
    assert len(blocks) == twins.kind.section.depth
    seen = []
    for block in blocks:
        hook = lambda _, args, kwargs, out: seen.append(  # noqa: E731
            ((args[0] if args else kwargs["hidden_states"]), out[0] if isinstance(out, tuple) else out)
        )
        block.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        twins.theirs(twins.ids, MASK)
    for block in blocks:
        block._forward_hooks.clear()
    for i, (before, after) in enumerate(seen):
        got = twins.kind.tower().apply({"params": twins.params}, before.numpy(), MASK, i, i + 1, True, method="blocks")
        assert np.abs(after.numpy() - before.numpy())[MASK].max() > 0.1
        assert np.abs(got - after.numpy())[MASK].max() < 1e-5


@pytest.mark.parametrize("mask", [MASK, np.ones_like(MASK)], ids=["padded", "full"])
def test_whole_tower_equals_torch(twins, mask):
    ids = np.where(mask, DRAWN, twins.ids)
    with torch.no_grad():
        expected = twins.theirs(ids, mask).numpy()
    assert np.abs(twins.ours(ids, mask) - expected)[mask].max() < 1e-4


def test_an_xlm_roberta_equals_torch(tmp_path):
    test_whole_tower_equals_torch(Twins("xlm-roberta", tmp_path), MASK)


def test_a_siglip_that_sees_its_padding_equals_torch_without_a_mask(tmp_path):
    masked = towers.KINDS["siglip_text_model"]
    masked = dataclasses.replace(masked, section=dataclasses.replace(masked.section, max_positions=LENGTH))
    kind = dataclasses.replace(masked, section=dataclasses.replace(masked.section, tower="siglip_padded"))
    model, ids = kind.torch_model(), np.where(MASK, DRAWN, 1)
    params = kind.params(model, tmp_path)
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
    found = np.asarray(kind.run(params, ids, MASK))
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - masked.run(params, ids, MASK))[1, :4].max() > 1e-2
    short = dataclasses.replace(kind, section=dataclasses.replace(kind.section, length=6))
    with pytest.raises(ConfigError, match="length is 6; siglip_padded was pretrained on captions padded to 7 tokens"):
        short.run(params, ids[:, :6], MASK[:, :6])


def test_pad_ids_change_no_output_bit_for_bit(twins):
    other = np.where(MASK, twins.ids, DRAWN)
    assert (other != twins.ids).any()
    np.testing.assert_array_equal(twins.ours(other, MASK)[MASK], twins.ours(twins.ids, MASK)[MASK])


def test_scanned_blocks_give_the_same_numbers(twins):
    plain = twins.ours(twins.ids, MASK)
    for execution in (
        Blocks(scan=True, remat="none", kernels="plain"),
        Blocks(scan=False, remat="dots", kernels="plain"),
        Blocks(scan=True, remat="full", kernels="plain"),
    ):
        tower = twins.kind.tower().clone(execution=execution)

        def run(tower, ids):
            return tower.finish(tower.blocks(tower.embed(ids, True), MASK, 0, twins.kind.section.depth, True))

        got = tower.apply({"params": twins.params}, twins.ids, method=run)
        np.testing.assert_allclose(got, plain, atol=1e-5)


def test_every_gradient_equals_torch(twins, tmp_path):
    twins.model.zero_grad()
    (twins.theirs(twins.ids, MASK) * torch.from_numpy(WEIGHT)).sum().backward()
    carrier = twins.kind.torch_model()  # its parameters carry the gradients through the table of names
    for parameter, source in zip(carrier.parameters(), twins.model.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad.clone()
    expected = twins.kind.params(carrier, tmp_path)
    got = jax.jit(jax.grad(lambda params: (twins.kind.run(params, twins.ids, MASK) * WEIGHT).sum()))(twins.params)

    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for path, mine, yours in zip(paths.every(expected), jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        zero = path.endswith("attention/key/bias")  # softmax ignores a shift of the keys: only rounding is left
        assert np.abs(yours).max() > 0 or zero, path
        scale = largest if zero else np.abs(yours).max()
        assert np.abs(mine - yours).max() <= 1e-4 * scale, path


def test_a_roberta_with_too_few_positions_raises_config_error():
    kind = towers.KINDS["roberta"]
    short = dataclasses.replace(kind.section, max_positions=8)
    with pytest.raises(ConfigError, match="length 7 exceeds the 6 positions that max_positions 8 leaves to a RoBERTa"):
        dataclasses.replace(kind, section=short).run({}, DRAWN, MASK)
