"""The decoder word by word against all words at once, its causal mask and padding, and a block against PyTorch."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge_jax.config import Blocks, Decoder
from bridge_jax.models import decoder

B, P, T, V = 3, 5, 7, 20
PLAIN = Blocks(scan=False, remat="none", kernels="plain")
SETTINGS = Decoder(layers=2, width=32, heads=4, mlp_width=40, dropout=0.1, reads="fused")
draw = np.random.default_rng(0)
IDS = draw.integers(0, V, (B, T))
IMAGE = draw.normal(size=(B, P, 12)).astype(np.float32)
TEXT = draw.normal(size=(B, 4, 24)).astype(np.float32)
TEXT_MASK = np.arange(4) < np.array([[4], [2], [3]])


def build(execution=PLAIN):
    return decoder.Decoder(SETTINGS, V, T, jnp.dtype("float32"), execution)


def whole(module, ids, image=IMAGE, text=TEXT, mask=TEXT_MASK):
    return module(ids, module.read(image, (text, mask)))


@pytest.fixture(scope="module")
def params():
    drawn = nn.init(whole, build())(jax.random.key(0), IDS)
    values = np.random.default_rng(1)
    return jax.tree.map(lambda x: values.normal(scale=0.3, size=x.shape).astype(np.float32), drawn)


def logits(params, ids=IDS, *states, execution=PLAIN):
    return np.asarray(nn.apply(whole, build(execution))(params, ids, *states))


def test_steps_with_the_cache_equal_all_words_at_once(params):
    def word_by_word(module):
        memory, cache, steps = module.read(IMAGE, (TEXT, TEXT_MASK)), module.empty_cache(B), []
        for position in range(T):
            step_logits, cache = module.step(IDS[:, position], jnp.int32(position), cache, memory)
            steps.append(step_logits)
        return jnp.stack(steps, axis=1)

    np.testing.assert_allclose(nn.apply(word_by_word, build())(params), logits(params), atol=1e-5)


def test_two_rows_of_words_may_read_one_picture(params):
    """As with beams: rows 2i and 2i+1 read picture i, as if the batch held it twice."""
    words = np.random.default_rng(2).integers(0, V, (2 * B, 2))

    def steps(module, image, text, mask):
        memory, cache = module.read(image, (text, mask)), module.empty_cache(2 * B)
        _, cache = module.step(words[:, 0], jnp.int32(0), cache, memory)
        return module.step(words[:, 1], jnp.int32(1), cache, memory)[0]

    once = nn.apply(steps, build())(params, IMAGE, TEXT, TEXT_MASK)
    twice = nn.apply(steps, build())(params, *(np.repeat(x, 2, axis=0) for x in (IMAGE, TEXT, TEXT_MASK)))
    np.testing.assert_allclose(once, twice, atol=1e-5)


def test_logits_depend_on_earlier_words_and_on_no_later_one(params):
    changed = IDS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % V
    before, after = logits(params), logits(params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(axis=-1) > 1e-4).all()


def test_logits_depend_on_the_texts_words_and_not_on_its_padding(params):
    noise = np.where(TEXT_MASK[..., None], TEXT, 100.0)
    np.testing.assert_array_equal(logits(params, IDS, IMAGE, noise), logits(params))
    other = TEXT + TEXT_MASK[..., None]
    assert np.abs(logits(params, IDS, IMAGE, other) - logits(params)).max() > 1e-3
    assert np.abs(logits(params, IDS, IMAGE[::-1]) - logits(params)).max() > 1e-3


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_blocks_give_the_same_logits(params, remat):
    execution = dataclasses.replace(PLAIN, scan=True, remat=remat)
    np.testing.assert_allclose(logits(params, execution=execution), logits(params), atol=1e-6)


def test_a_block_equals_a_pre_norm_decoder_layer_of_torch(params):
    """The oracle is torch.nn.TransformerDecoderLayer(norm_first=True) with our parameters."""
    ours = params["params"]["block_00"]
    width = SETTINGS.width
    layer = torch.nn.TransformerDecoderLayer(
        width, SETTINGS.heads, SETTINGS.mlp_width, 0.0, "gelu", decoder.NORM_EPS, batch_first=True, norm_first=True
    )
    state = {}
    for theirs, name in (("self_attn", "self_attention"), ("multihead_attn", "cross_attention")):
        maps = [ours[name][part] for part in ("query", "key", "value")]
        state[f"{theirs}.in_proj_weight"] = np.concatenate([affine["kernel"].T for affine in maps])
        state[f"{theirs}.in_proj_bias"] = np.concatenate([affine["bias"] for affine in maps])
        state |= {f"{theirs}.out_proj.weight": ours[name]["out"]["kernel"].T}
        state |= {f"{theirs}.out_proj.bias": ours[name]["out"]["bias"]}
    for theirs, name in (("linear1", "up"), ("linear2", "down")):
        state |= {f"{theirs}.weight": ours["mlp"][name]["kernel"].T, f"{theirs}.bias": ours["mlp"][name]["bias"]}
    for number, name in enumerate(("self_norm", "cross_norm", "mlp_norm"), 1):
        state |= {f"norm{number}.weight": ours[name]["scale"], f"norm{number}.bias": ours[name]["bias"]}
    layer.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in state.items()}, strict=True)
    x, memory = (np.random.default_rng(3).normal(size=(B, n, width)).astype(np.float32) for n in (T, P))
    causal = torch.nn.Transformer.generate_square_subsequent_mask(T)
    with torch.no_grad():
        expected = layer.eval()(torch.tensor(x), torch.tensor(memory), tgt_mask=causal, tgt_is_causal=True)

    def run(block):
        return block(x, block.cross_attention.keys_values(memory), jnp.ones((B, P), bool), True)

    output = nn.apply(run, decoder.Block(SETTINGS, jnp.dtype("float32")))({"params": ours})
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)
