"""Words out of a decoder: the likeliest one after the other, drawn, or by beam search; one compiled loop each.

`likelihoods` writes nothing: it says how likely each of given answers is.

A search knows no model. It calls

    next_logits(ids [R], position, cache) -> logits [R,V] of the word after `position`, and the cache

on R = B x K rows, the K beams of a picture side by side. Captions are int32 [B,T]: `start`, words, `end`, then `pad`.
The last place is for `end` alone, so every caption ends.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bridge_jax import rng
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Lower

NextLogits = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
Choose = Callable[[Float[Array, "B V"], jax.Array], Int[Array, "B"]]  # logits and position -> words

LOGITS = 2**26  # that `likelihoods` holds at once, over all devices: 256 MiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How a caption is searched for."""

    search: Literal["greedy", "beam", "nucleus"]
    beams: int
    length_penalty: float  # the score of a beam is its log-likelihood / words^length_penalty
    nucleus_mass: float  # a word is drawn of the likeliest that have this probability together
    temperature: float  # of nucleus


class Frame(NamedTuple):
    """The tokens around a caption."""

    start: int
    end: int
    pad: int
    length: int  # T, with start and end


def captions(model: BridgeModel, lower: Lower, rows: Int[Array, "B"], frame: Frame, how: Search) -> Int[Array, "B T"]:
    """Write a caption of every picture. What is drawn depends on the row's number alone, not on its batch."""
    memory, decoder = model.memory(lower), model.decoder
    # no module may be called inside a compiled loop but one that is given its parameters
    params, plain = decoder.variables, decoder.clone(parent=None, name=None)

    def next_logits(ids_R: jax.Array, position: jax.Array, cache: Any) -> Any:
        return plain.apply(params, ids_R, position, cache, memory, method="step")

    B = len(rows)
    if how.search == "beam":
        cache = decoder.empty_cache(B * how.beams)
        return beam(next_logits, cache, B, how.beams, frame, how.length_penalty)[0][:, 0]
    choose = greedy
    if how.search == "nucleus":
        keys = jax.vmap(lambda row: rng.key(model.cfg.seed, "caption", row))(rows)
        choose = nucleus(keys, how.nucleus_mass, how.temperature)
    return one_by_one(next_logits, decoder.empty_cache(B), B, frame, choose)


def likelihoods(model: BridgeModel, lower: Lower, answers: Sequence[Sequence[int]]) -> Float[Array, "B A"]:
    """Return the log-likelihood of every answer to every question: the sum over its words, the end included.

    `answers` are their ids, with the tokens around them and without padding.

    Exact for all of them; ALBEF and BLIP score only answers that begin with one of the k likeliest first words. The
    states of picture and question are made once. Answers of one length go through the decoder together, so none is
    padded, in chunks that bound the logits held at once.
    """
    memory, decoder = model.memory(lower), model.decoder
    params, plain = decoder.variables, decoder.clone(parent=None, name=None)  # as in `captions`
    B, lengths_A = len(memory.mask), np.array([len(ids) for ids in answers])

    def of_chunk(ids_CL: jax.Array) -> Float[Array, "B C"]:
        ids_RL = jnp.tile(ids_CL, (B, 1))  # R = B x C rows, all answers to a question side by side
        logits_RLV: Any = plain.apply(params, ids_RL[:, :-1], memory)
        word_RL = jnp.take_along_axis(logits_RLV, ids_RL[:, 1:, None], axis=-1)[..., 0]
        return (word_RL - jax.nn.logsumexp(logits_RLV, axis=-1)).sum(axis=-1).reshape(B, -1)

    found_BA = jnp.zeros((B, len(answers)), jnp.float32)
    for length in np.unique(lengths_A):
        of_length = np.flatnonzero(lengths_A == length)
        fits = LOGITS // (B * (length - 1) * model.cfg.text.vocab_size)
        size = int(min(len(of_length), max(1, fits)))
        chunks = np.resize(of_length, (-(-len(of_length) // size), size))  # the last is filled up from the first
        found_nBC = jax.lax.map(of_chunk, np.array([[answers[index] for index in chunk] for chunk in chunks], np.int32))
        found_BX = jnp.moveaxis(found_nBC, 0, 1).reshape(B, -1)
        found_BA = found_BA.at[:, of_length].set(found_BX[:, : len(of_length)])
    return found_BA


def greedy(logits_BV: Float[Array, "B V"], position: jax.Array) -> Int[Array, "B"]:
    """Choose the likeliest word."""
    del position
    return logits_BV.argmax(axis=-1)


def nucleus(keys: jax.Array, mass: float, temperature: float) -> Choose:
    """Return what draws from the likeliest words that together have the probability `mass` (Holtzman et al. 2020).

    `keys` [B], one a row, so that what is drawn for a picture does not depend on its neighbours in the batch.
    """

    def choose(logits_BV: Float[Array, "B V"], position: jax.Array) -> Int[Array, "B"]:
        ordered_BV = jnp.sort(logits_BV / temperature, axis=-1, descending=True)
        before_BV = jnp.cumsum(jax.nn.softmax(ordered_BV), axis=-1) - jax.nn.softmax(ordered_BV)
        least_B1 = jnp.where(before_BV < mass, ordered_BV, jnp.inf).min(axis=-1, keepdims=True)
        kept_BV = jnp.where(logits_BV / temperature >= least_B1, logits_BV / temperature, -jnp.inf)
        return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, position), row))(keys, kept_BV)

    return choose


def one_by_one(next_logits: NextLogits, cache: Any, rows: int, frame: Frame, choose: Choose) -> Int[Array, "B T"]:
    """Choose word after word until every caption has ended."""

    def going(state: Any) -> jax.Array:
        position, _, ended_B, _ = state
        return (position < frame.length - 1) & ~ended_B.all()

    def extend(state: Any) -> Any:
        position, ids_BT, ended_B, cache = state
        logits_BV, cache = next_logits(ids_BT[:, position], position, cache)
        word_B = choose(_last_is_end(logits_BV, position, frame), position)
        word_B = jnp.where(ended_B, frame.pad, word_B).astype(jnp.int32)
        return position + 1, ids_BT.at[:, position + 1].set(word_B), ended_B | (word_B == frame.end), cache

    ids_BT = jnp.full((rows, frame.length), frame.pad, jnp.int32).at[:, 0].set(frame.start)
    return jax.lax.while_loop(going, extend, (jnp.int32(0), ids_BT, jnp.zeros(rows, bool), cache))[1]


class _Beams(NamedTuple):
    position: jax.Array
    live_ids: jax.Array  # [B,K,T], captions that go on
    live: jax.Array  # [B,K], their log-likelihoods
    done_ids: jax.Array  # [B,K,T], the best that have ended
    done: jax.Array  # [B,K], their scores; -inf: none yet
    cache: Any


def beam(
    next_logits: NextLogits, cache: Any, rows: int, beams: int, frame: Frame, length_penalty: float
) -> tuple[Int[Array, "B K T"], Float[Array, "B K"]]:
    """Return the K best captions found, best first, and their scores: log-likelihood / words^`length_penalty`.

    The words count `end` but not `start`. `length_penalty` is 0 or more; the search stops where no caption that goes
    on can still beat the worst of K that have ended.
    """

    def score(likelihood: jax.Array, words: jax.Array | int) -> jax.Array:
        return likelihood / jnp.asarray(words, jnp.float32) ** length_penalty

    def going(state: _Beams) -> jax.Array:
        hope_B = score(state.live.max(axis=1), frame.length - 1)
        return (state.position < frame.length - 1) & (hope_B > state.done.min(axis=1)).any()

    def extend(state: _Beams) -> _Beams:
        position, K = state.position, beams
        logits_RV, cache = next_logits(state.live_ids[:, :, position].reshape(-1), position, state.cache)
        more_RV = jax.nn.log_softmax(_last_is_end(logits_RV, position, frame))
        V = more_RV.shape[-1]
        all_BX = (state.live.reshape(-1, 1) + more_RV).reshape(rows, K * V)
        # of twice as many as there are beams at most K end, so K go on
        found_B2K, index_B2K = jax.lax.top_k(all_BX, 2 * K)
        from_B2K, word_B2K = index_B2K // V, index_B2K % V
        ids_B2KT = _of_beams(state.live_ids, from_B2K).at[:, :, position + 1].set(word_B2K.astype(jnp.int32))
        ends_B2K = word_B2K == frame.end
        ended_B2K = jnp.where(ends_B2K, score(found_B2K, position + 1), -jnp.inf)
        done, best_BK = jax.lax.top_k(jnp.concatenate([state.done, ended_B2K], axis=1), K)
        done_ids = _of_beams(jnp.concatenate([state.done_ids, ids_B2KT], axis=1), best_BK)
        live, next_BK = jax.lax.top_k(jnp.where(ends_B2K, -jnp.inf, found_B2K), K)
        from_BK = jnp.take_along_axis(from_B2K, next_BK, axis=1)
        cache = jax.tree.map(lambda x: _of_beams(x.reshape(rows, K, *x.shape[1:]), from_BK).reshape(x.shape), cache)
        return _Beams(position + 1, _of_beams(ids_B2KT, next_BK), live, done_ids, done, cache)

    ids = jnp.full((rows, beams, frame.length), frame.pad, jnp.int32).at[:, :, 0].set(frame.start)
    alone = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)  # all beams are the same at first: one counts
    live, done = jnp.tile(alone, (rows, 1)), jnp.full((rows, beams), -jnp.inf)
    end = jax.lax.while_loop(going, extend, _Beams(jnp.int32(0), ids, live, ids, done, cache))
    return end.done_ids, end.done


def _of_beams(x: jax.Array, index_BK: jax.Array) -> jax.Array:
    """Return x [B,J,...] at the beams [B,K] of every row."""
    return jax.vmap(lambda row, index: row[index])(x, index_BK)


def _last_is_end(logits: jax.Array, position: jax.Array, frame: Frame) -> jax.Array:
    """Return the logits, those of the last word minus infinity for all but `end`."""
    other = jnp.arange(logits.shape[-1]) != frame.end
    return jnp.where(other & (position == frame.length - 2), -jnp.inf, logits)
