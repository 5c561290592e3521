"""The searches against slow twins: all possible captions, and the decoder without its cache."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import Decoder
from bridge_jax.models import decoder, search
from bridge_jax.models.search import SpecialTokens

START, END, PAD = 0, 1, 2
B, V = 4, 6
TOKENS = SpecialTokens(START, END, PAD, length=5)
WORDS = list(range(V))


def table(seed=0, tokens=TOKENS):
    """Return logits of the next word by position and last word, [B,T,V,V]: one Markov chain per row."""
    return np.random.default_rng(seed).normal(scale=2.0, size=(B, tokens.length, V, V)).astype(np.float32)


def chain(logits, beams=1):
    """Return `next_logits` of the chain and a cache that records each row's words, so that it must follow its beam."""
    rows = np.repeat(np.arange(B), beams)

    def next_logits(ids_R, position, cache):
        return jnp.asarray(logits)[rows, position, ids_R], cache.at[:, position].set(ids_R)

    return next_logits, jnp.full((B * beams, logits.shape[1]), -1)


def every_caption(logits, tokens=TOKENS):
    """Yield, for each row, all possible captions with their log-likelihoods."""
    logits = np.asarray(logits, np.float64)
    logits[:, tokens.length - 2][..., [word for word in range(V) if word != END]] = -np.inf
    with np.errstate(invalid="ignore"):
        logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        logp -= logits.max(-1, keepdims=True)
    for row in range(B):
        captions = []
        for count in range(tokens.length - 1):
            for words in itertools.product([w for w in WORDS if w != END], repeat=count):
                ids = (START, *words, END)
                captions.append((sum(logp[row, t, ids[t], ids[t + 1]] for t in range(count + 1)), ids))
        yield captions


def padded(ids, tokens=TOKENS):
    return list(ids) + [PAD] * (tokens.length - len(ids))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_a_beam_as_wide_as_all_captions_finds_the_best(penalty):
    logits, beams = table(), 125  # 5 words, 3 positions: no caption falls off the beam
    ids, scores = search.beam(*chain(logits, beams), B, beams, TOKENS, penalty)
    for row, captions in enumerate(every_caption(logits)):
        scored = ((value / (len(caption) - 1) ** penalty, caption) for value, caption in captions)
        ranked = sorted(scored, reverse=True)
        for rank in range(5):
            assert ids[row, rank].tolist() == padded(ranked[rank][1])
            assert scores[row, rank] == pytest.approx(ranked[rank][0], abs=1e-4)


def test_stopping_early_never_loses_the_best_caption():
    """The search stops once no unfinished caption can win, and still returns the best of all captions."""
    logits = table(3)
    logits[:, :2, :, END] += 8.0  # hardly ever more than one word
    calls = []

    def counted(ids_R, position, cache):
        jax.debug.callback(lambda: calls.append(1))
        return next_logits(ids_R, position, cache)

    next_logits, cache = chain(logits, 2)
    ids, _ = search.beam(counted, cache, B, 2, TOKENS, 0.0)
    jax.effects_barrier()
    assert len(calls) < TOKENS.length - 1
    for row, captions in enumerate(every_caption(logits)):
        assert ids[row, 0].tolist() == padded(max(captions)[1])


def test_the_cache_follows_its_beam():
    """The chain's cache holds the words of its row: in the end, those of the surviving captions."""
    seen = []

    def watched(ids_R, position, cache):
        logits, cache = next_logits(ids_R, position, cache)
        jax.debug.callback(lambda p, ids, c: seen.append((int(p), np.array(ids), np.array(c))), position, ids_R, cache)
        return logits, cache

    next_logits, cache = chain(table(1), 3)
    caption_ids = search.beam(watched, cache, B, 3, TOKENS, 0.0)[0]
    jax.effects_barrier()
    assert len(seen) > 2
    for position, ids, kept in seen:
        np.testing.assert_array_equal(kept[:, position], ids)
        assert (kept[:, 0] == START).all()
    prefixes = {tuple(row[:3]) for _, _, kept in seen for row in kept if (row[:3] >= 0).all()}
    for caption in np.asarray(caption_ids).reshape(-1, TOKENS.length):
        words = caption[: caption.tolist().index(END)]
        assert len(words) < 3 or tuple(words[:3]) in prefixes


def test_greedy_chooses_the_likeliest_word_at_every_step():
    logits = table(2)
    ids = np.asarray(search.one_by_one(*chain(logits), B, TOKENS, search.greedy))
    for row in range(B):
        expected = [START]
        while expected[-1] != END:
            allowed = WORDS if len(expected) < TOKENS.length - 1 else [END]
            expected.append(max(allowed, key=logits[row, len(expected) - 1, expected[-1]].__getitem__))
        assert ids[row].tolist() == padded(expected)


def test_nucleus_draws_words_in_proportion_to_their_probability():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for mass, temperature in ((0.75, 1.0), (0.9, 2.0), (1.0, 1.0)):
        p = np.exp(logits / temperature)
        p /= p.sum()
        kept = np.searchsorted(np.cumsum(p), mass, side="left") + 1 if mass < 1 else 4
        expected = np.where(np.arange(4) < kept, p, 0) / p[:kept].sum()
        keys = jax.random.split(jax.random.key(0), 4000)
        drawn = search.nucleus(keys, mass, temperature)(jnp.tile(logits, (4000, 1)), jnp.int32(3))
        frequencies = np.bincount(np.asarray(drawn), minlength=4) / 4000
        assert (frequencies[kept:] == 0).all()
        np.testing.assert_allclose(frequencies, expected, atol=0.03)  # about four standard deviations


def test_a_rows_draw_does_not_depend_on_its_neighbours():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(B, V)))
    keys = jax.random.split(jax.random.key(1), B)
    together = search.nucleus(keys, 0.9, 1.0)(logits, jnp.int32(0))
    for row in range(B):
        alone = search.nucleus(keys[row : row + 1], 0.9, 1.0)(logits[row : row + 1], jnp.int32(0))
        assert alone[0] == together[row]


@pytest.mark.parametrize("how", ["greedy", "beam"])
def test_the_cached_decoder_writes_the_same_as_the_uncached_one(how):
    settings = Decoder(layers=2, width=16, heads=2, mlp_width=24, dropout=0.0, reads="image")
    tokens = TOKENS._replace(length=9)
    module = decoder.Decoder(settings, V, tokens.length, jnp.dtype("float32"))
    image = np.random.default_rng(0).normal(size=(B, 5, 12)).astype(np.float32)
    ids = np.zeros((B, tokens.length), int)
    drawn = nn.init(lambda m: m(ids, m.read(image)), module)(jax.random.key(0))
    values = np.random.default_rng(1)
    params = jax.tree.map(lambda x: values.normal(scale=0.6, size=x.shape).astype(np.float32), drawn)
    memory = nn.apply(lambda m: m.read(image), module)(params)
    K = 3 if how == "beam" else 1

    def cached(ids_R, position, cache):
        return module.apply(params, ids_R, position, cache, memory, method="step")

    def uncached(ids_R, position, words_RT):
        words_RT = words_RT.at[:, position].set(ids_R)
        wide = jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), memory)
        return module.apply(params, words_RT, wide)[:, position], words_RT

    caches = module.apply(params, B * K, method="empty_cache"), jnp.zeros((B * K, tokens.length), int)
    written = []
    for next_logits, cache in zip((cached, uncached), caches, strict=True):
        if how == "beam":
            written.append(search.beam(next_logits, cache, B, K, tokens, 0.7)[0])
        else:
            written.append(search.one_by_one(next_logits, cache, B, tokens, search.greedy))
    np.testing.assert_array_equal(*written)
    assert len(np.unique(np.asarray(written[0]).reshape(B * K, -1), axis=0)) > 2
