"""The searches against slow twins: every caption there is, and the decoder without its cache."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import Decoder
from bridge_jax.models import decoder, search
from bridge_jax.models.search import Frame

START, END, PAD = 0, 1, 2
B, V = 4, 6
FRAME = Frame(START, END, PAD, length=5)
WORDS = list(range(V))


def table(seed=0, frame=FRAME):
    """Return logits of the next word by position and last word, [T,V,V]: a Markov chain of its own for each row."""
    return np.random.default_rng(seed).normal(scale=2.0, size=(B, frame.length, V, V)).astype(np.float32)


def chain(logits, beams=1):
    """Return `next_logits` of the chain. The cache counts the words, so that it must follow its beam."""
    rows = np.repeat(np.arange(B), beams)

    def next_logits(ids_R, position, cache):
        return jnp.asarray(logits)[rows, position, ids_R], cache.at[:, position].set(ids_R)

    return next_logits, jnp.full((B * beams, logits.shape[1]), -1)


def every_caption(logits, frame=FRAME):
    """Yield all captions there are with their log-likelihoods, for each row."""
    logits = np.asarray(logits, np.float64)
    logits[:, frame.length - 2][..., [word for word in range(V) if word != END]] = -np.inf
    with np.errstate(invalid="ignore"):
        logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        logp -= logits.max(-1, keepdims=True)
    for row in range(B):
        found = []
        for count in range(frame.length - 1):
            for words in itertools.product([w for w in WORDS if w != END], repeat=count):
                said = (START, *words, END)
                found.append((sum(logp[row, t, said[t], said[t + 1]] for t in range(count + 1)), said))
        yield found


def padded(said, frame=FRAME):
    return list(said) + [PAD] * (frame.length - len(said))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_a_beam_as_wide_as_there_are_captions_finds_the_best_of_all(penalty):
    logits, beams = table(), 125  # 5 words, 3 places: nothing falls off the beam
    ids, scores = search.beam(*chain(logits, beams), B, beams, FRAME, penalty)
    for row, found in enumerate(every_caption(logits)):
        ranked = sorted(((value / (len(said) - 1) ** penalty, said) for value, said in found), reverse=True)
        for place in range(5):
            assert ids[row, place].tolist() == padded(ranked[place][1])
            assert scores[row, place] == pytest.approx(ranked[place][0], abs=1e-4)


def test_what_stopping_early_saves_is_never_the_best():
    """A caption that cannot be beaten any more ends the search; the result is that of a search through all places."""
    logits = table(3)
    logits[:, :2, :, END] += 8.0  # hardly ever more than one word
    calls = []

    def counted(ids_R, position, cache):
        jax.debug.callback(lambda: calls.append(1))
        return next_logits(ids_R, position, cache)

    next_logits, cache = chain(logits, 2)
    ids, _ = search.beam(counted, cache, B, 2, FRAME, 0.0)
    jax.effects_barrier()
    assert len(calls) < FRAME.length - 1
    for row, found in enumerate(every_caption(logits)):
        assert ids[row, 0].tolist() == padded(max(found)[1])


def test_the_cache_follows_its_beam():
    """The chain's cache holds the words of the row: in the end, those of the captions that went on."""
    seen = []

    def watched(ids_R, position, cache):
        logits, cache = next_logits(ids_R, position, cache)
        jax.debug.callback(lambda p, ids, c: seen.append((int(p), np.array(ids), np.array(c))), position, ids_R, cache)
        return logits, cache

    next_logits, cache = chain(table(1), 3)
    frame_ids = search.beam(watched, cache, B, 3, FRAME, 0.0)[0]
    jax.effects_barrier()
    assert len(seen) > 2
    for position, ids, kept in seen:
        np.testing.assert_array_equal(kept[:, position], ids)
        assert (kept[:, 0] == START).all()
    prefixes = {tuple(row[:3]) for _, _, kept in seen for row in kept if (row[:3] >= 0).all()}
    for caption in np.asarray(frame_ids).reshape(-1, FRAME.length):
        said = caption[: caption.tolist().index(END)]
        assert len(said) < 3 or tuple(said[:3]) in prefixes


def test_greedy_takes_the_likeliest_word_each_time():
    logits = table(2)
    ids = np.asarray(search.one_by_one(*chain(logits), B, FRAME, search.greedy))
    for row in range(B):
        said = [START]
        while said[-1] != END:
            allowed = WORDS if len(said) < FRAME.length - 1 else [END]
            said.append(max(allowed, key=logits[row, len(said) - 1, said[-1]].__getitem__))
        assert ids[row].tolist() == padded(said)


def test_nucleus_draws_the_words_of_the_nucleus_as_often_as_they_are_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for mass, temperature in ((0.75, 1.0), (0.9, 2.0), (1.0, 1.0)):
        p = np.exp(logits / temperature)
        p /= p.sum()
        kept = np.searchsorted(np.cumsum(p), mass, side="left") + 1 if mass < 1 else 4
        expected = np.where(np.arange(4) < kept, p, 0) / p[:kept].sum()
        keys = jax.random.split(jax.random.key(0), 4000)
        drawn = search.nucleus(keys, mass, temperature)(jnp.tile(logits, (4000, 1)), jnp.int32(3))
        found = np.bincount(np.asarray(drawn), minlength=4) / 4000
        assert (found[kept:] == 0).all()
        np.testing.assert_allclose(found, expected, atol=0.03)  # some four standard deviations


def test_what_is_drawn_for_a_row_does_not_depend_on_its_neighbours():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(B, V)))
    keys = jax.random.split(jax.random.key(1), B)
    together = search.nucleus(keys, 0.9, 1.0)(logits, jnp.int32(0))
    for row in range(B):
        alone = search.nucleus(keys[row : row + 1], 0.9, 1.0)(logits[row : row + 1], jnp.int32(0))
        assert alone[0] == together[row]


@pytest.mark.parametrize("how", ["greedy", "beam"])
def test_the_cached_decoder_writes_what_the_uncached_one_does(how):
    settings = Decoder(layers=2, width=16, heads=2, mlp_width=24, dropout=0.0, reads="image")
    frame = FRAME._replace(length=9)
    module = decoder.Decoder(settings, V, frame.length, jnp.dtype("float32"))
    image = np.random.default_rng(0).normal(size=(B, 5, 12)).astype(np.float32)
    ids = np.zeros((B, frame.length), int)
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

    caches = module.apply(params, B * K, method="empty_cache"), jnp.zeros((B * K, frame.length), int)
    found = []
    for next_logits, cache in zip((cached, uncached), caches, strict=True):
        if how == "beam":
            found.append(search.beam(next_logits, cache, B, K, frame, 0.7)[0])
        else:
            found.append(search.one_by_one(next_logits, cache, B, frame, search.greedy))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(np.asarray(found[0]).reshape(B * K, -1), axis=0)) > 2
