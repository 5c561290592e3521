"""The text tower against Hugging Face's torch BERT, with every parameter drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bridge_jax import paths
from bridge_jax.config import Text
from bridge_jax.interop import hf_import
from bridge_jax.models import bert

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

DEPTH, WIDTH, VOCAB, LENGTH = 2, 32, 60, 7
CFG = Text(
    tower="bert",
    depth=DEPTH,
    width=WIDTH,
    heads=4,
    mlp_width=64,
    vocab_size=VOCAB,
    max_positions=12,
    token_types=2,
    length=LENGTH,
    norm_eps=1e-12,
    dropout=0.1,
    pretrained="",
)
TOWER = bert.Tower(CFG, jnp.dtype("float32"))
MASK = np.arange(LENGTH) < np.array([[7], [4], [1]])  # full, padded, a single token
IDS = np.where(MASK, np.random.default_rng(0).integers(1, VOCAB, MASK.shape), 0)


def torch_model() -> torch.nn.Module:
    config = transformers.BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=VOCAB,
        max_position_embeddings=12,
        attn_implementation="eager",
    )
    return transformers.BertModel(config).eval()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """Draw ALL parameters; LayerNorm scales around one, so that a missing or swapped one shows."""
    model, generator = torch_model(), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        parameter.data = around + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def params(model, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return hf_import.text_params(folder, CFG)


def ours(params, ids, mask):
    def run(tower, ids, mask):
        return tower.finish(tower.blocks(tower.embed(ids, True), mask, 0, DEPTH, True))

    return TOWER.apply({"params": params}, ids, mask, method=run)


def theirs(model, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64))).last_hidden_state


def test_parameter_paths_are_those_of_the_tower(params):
    def run(tower, ids, mask):
        return tower.blocks(tower.embed(ids, True), mask, 0, DEPTH, True)

    made = jax.eval_shape(lambda key: TOWER.init(key, IDS, MASK, method=run)["params"], jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, params)


def test_embedding_equals_torch(model, params):
    with torch.no_grad():
        expected = model.embeddings(torch.from_numpy(IDS)).numpy()
    got = TOWER.apply({"params": params}, IDS, True, method="embed")
    assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_each_block_equals_torch(model, params, masked):
    x = np.random.default_rng(1).normal(size=(3, LENGTH, WIDTH)).astype(np.float32)
    mask = MASK if masked else np.ones_like(MASK)
    additive = np.where(mask, 0, np.finfo(np.float32).min).astype(np.float32)[:, None, None, :]
    blocks = [m for m in model.modules() if type(m).__name__ == "BertLayer"]
    assert len(blocks) == DEPTH
    for i, block in enumerate(blocks):
        with torch.no_grad():
            out = block(torch.from_numpy(x), torch.from_numpy(additive))
        expected = (out[0] if isinstance(out, tuple) else out).numpy()
        got = TOWER.apply({"params": params}, x, mask, i, i + 1, True, method="blocks")
        assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("mask", [MASK, np.ones_like(MASK)], ids=["padded", "full"])
def test_whole_tower_equals_torch(model, params, mask):
    with torch.no_grad():
        expected = theirs(model, IDS, mask).numpy()
    assert np.abs(ours(params, IDS, mask) - expected).max() < 1e-4


def test_pad_ids_change_no_output_bit_for_bit(params):
    other = np.where(MASK, IDS, np.random.default_rng(5).integers(0, VOCAB, IDS.shape))
    assert (other != IDS).any()
    run = jax.jit(ours)
    np.testing.assert_array_equal(run(params, other, MASK)[MASK], run(params, IDS, MASK)[MASK])
    everything = np.ones_like(MASK)  # without the mask they do change it: the test can fail
    assert np.abs(run(params, other, everything)[MASK] - run(params, IDS, everything)[MASK]).max() > 1e-3


def test_padding_a_batch_longer_changes_nothing(params):
    longer = np.pad(IDS, ((0, 0), (0, 4))), np.pad(MASK, ((0, 0), (0, 4)))
    got = ours(params, *longer)[:, :LENGTH][MASK]
    np.testing.assert_allclose(got, ours(params, IDS, MASK)[MASK], atol=1e-5)


def test_every_gradient_equals_torch(model, params, tmp_path):
    # Only real tokens count: torch's padding_idx drops the gradient of [PAD], which a loss on padding would show.
    weight = (np.random.default_rng(4).normal(size=(3, LENGTH, WIDTH)) * MASK[..., None]).astype(np.float32)
    model.zero_grad()
    (theirs(model, IDS, MASK) * torch.from_numpy(weight)).sum().backward()
    carrier = torch_model()  # its parameters carry the gradients through the table of names
    for parameter, source in zip(carrier.parameters(), model.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad.clone()
    carrier.save_pretrained(tmp_path)
    expected = hf_import.text_params(tmp_path, CFG)
    got = jax.jit(jax.grad(lambda params: (ours(params, IDS, MASK) * weight).sum()))(params)

    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for path, mine, yours in zip(paths.every(expected), jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        zero = path.endswith("attention/key/bias")  # softmax ignores a shift of the keys: only rounding is left
        assert np.abs(yours).max() > 0 or zero, path
        scale = largest if zero else np.abs(yours).max()
        assert np.abs(mine - yours).max() <= 1e-4 * scale, path
