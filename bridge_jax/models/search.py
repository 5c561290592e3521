"""Write captions with a decoder: greedily, by nucleus sampling or by beam search, in one compiled loop each.

`likelihoods` writes nothing: it returns the log-likelihoods of known answers.

A search depends on no model. It calls

    next_logits(ids [R], position, cache) -> logits [R,V] of the word after `position`, and the cache

on R = B x K rows, the K beams of a picture side by side. Captions are int32 [B,T]: `start`, words, `end`, then `pad`.
The last position allows only `end`, so every caption ends.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bridge_jax import rng
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Lower

NextLogits = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
Choose = Callable[[Float[Array, "B V"], jax.Array], Int[Array, "B"]]  # logits and position -> words

LOGITS = 2**26  # logits that `likelihoods` holds at once, over all devices: 256 MiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a caption search."""

    search: Literal["greedy", "beam", "nucleus"]
    beams: int
    length_penalty: float  # the score of a beam is its log-likelihood / words^length_penalty
    nucleus_mass: float  # "nucleus" draws among the likeliest words that together have this probability
    temperature: float  # of "nucleus"


class SpecialTokens(NamedTuple):
    """The ids of the special tokens of a caption, and its length."""

    start: int
    end: int
    pad: int
    length: int  # T, with start and end


def captions(
    model: BridgeModel, lower: Lower, rows: Int[Array, "B"], tokens: SpecialTokens, settings: Search
) -> Int[Array, "B T"]:
    """Write a caption of every picture. Random draws depend only on the row's number, not on its batch."""
    memory, decoder = model.memory(lower), model.decoder
    # A compiled loop may call only an unbound module, which takes its parameters as an argument.
    params, unbound = decoder.variables, decoder.clone(parent=None, name=None)

    def next_logits(ids_R: Array, position: Array, cache: Any) -> Any:
        return unbound.apply(params, ids_R, position, cache, memory, method="step")

    B = len(rows)
    if settings.search == "beam":
        cache = decoder.empty_cache(B * settings.beams)
        return beam(next_logits, cache, B, settings.beams, tokens, settings.length_penalty)[0][:, 0]
    choose = greedy
    if settings.search == "nucleus":
        keys = jax.vmap(lambda row: rng.key(model.cfg.seed, "caption", row))(rows)
        choose = nucleus(keys, settings.nucleus_mass, settings.temperature)
    return one_by_one(next_logits, decoder.empty_cache(B), B, tokens, choose)


def likelihoods(model: BridgeModel, lower: Lower, answers: Sequence[Sequence[int]]) -> Float[Array, "B A"]:
    """Return the log-likelihood of every answer to every question: the sum over its words, the end included.

    `answers` holds their ids, with start and end and without padding.

    The result is exact for all answers; ALBEF and BLIP score only those that begin with one of the k likeliest first
    words. The states of picture and question are computed once. Answers of equal length go through the decoder
    together, so none is padded, in chunks that bound the number of logits held at once.
    """
    memory, decoder = model.memory(lower), model.decoder
    params, unbound = decoder.variables, decoder.clone(parent=None, name=None)  # as in `captions`
    B, lengths_A = len(memory.mask), np.array([len(ids) for ids in answers])

    def chunk_likelihoods(ids_CL: Array) -> Float[Array, "B C"]:
        ids_RL = jnp.tile(ids_CL, (B, 1))  # R = B x C rows, all answers to a question side by side
        logits_RLV: Any = unbound.apply(params, ids_RL[:, :-1], memory)
        word_logits_RL = jnp.take_along_axis(logits_RLV, ids_RL[:, 1:, None], axis=-1)[..., 0]
        return (word_logits_RL - jax.nn.logsumexp(logits_RLV, axis=-1)).sum(axis=-1).reshape(B, -1)

    likelihoods_BA = jnp.zeros((B, len(answers)), jnp.float32)
    for length in np.unique(lengths_A):
        equal_length = np.flatnonzero(lengths_A == length)  # indices of answers
        limit = LOGITS // (B * (length - 1) * model.cfg.text.vocab_size)
        size = int(min(len(equal_length), max(1, limit)))
        chunks = np.resize(equal_length, (-(-len(equal_length) // size), size))  # the first answers fill the last chunk
        ids_nCL = np.array([[answers[index] for index in chunk] for chunk in chunks], np.int32)
        chunks_nBC = jax.lax.map(chunk_likelihoods, ids_nCL)
        flat_BX = jnp.moveaxis(chunks_nBC, 0, 1).reshape(B, -1)
        likelihoods_BA = likelihoods_BA.at[:, equal_length].set(flat_BX[:, : len(equal_length)])
    return likelihoods_BA


def greedy(logits_BV: Float[Array, "B V"], position: Array) -> Int[Array, "B"]:
    """Choose the likeliest word."""
    del position
    return logits_BV.argmax(axis=-1)


def nucleus(keys: Array, mass: float, temperature: float) -> Choose:
    """Return a sampler from the likeliest words that together have the probability `mass` (Holtzman et al. 2020).

    `keys` [B] holds one key per row, so a picture's words do not depend on its neighbours in the batch.
    """

    def choose(logits_BV: Float[Array, "B V"], position: Array) -> Int[Array, "B"]:
        ordered_BV = jnp.sort(logits_BV / temperature, axis=-1, descending=True)
        before_BV = jnp.cumsum(jax.nn.softmax(ordered_BV), axis=-1) - jax.nn.softmax(ordered_BV)
        threshold_B1 = jnp.where(before_BV < mass, ordered_BV, jnp.inf).min(axis=-1, keepdims=True)
        kept_BV = jnp.where(logits_BV / temperature >= threshold_B1, logits_BV / temperature, -jnp.inf)
        return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, position), row))(keys, kept_BV)

    return choose


def one_by_one(
    next_logits: NextLogits, cache: Any, rows: int, tokens: SpecialTokens, choose: Choose
) -> Int[Array, "B T"]:
    """Append one word at a time until every caption has ended."""

    def unfinished(state: Any) -> jax.Array:
        position, _, ended_B, _ = state
        return (position < tokens.length - 1) & ~ended_B.all()

    def extend(state: Any) -> Any:
        position, ids_BT, ended_B, cache = state
        logits_BV, cache = next_logits(ids_BT[:, position], position, cache)
        word_B = choose(_force_end(logits_BV, position, tokens), position)
        word_B = jnp.where(ended_B, tokens.pad, word_B).astype(jnp.int32)
        return position + 1, ids_BT.at[:, position + 1].set(word_B), ended_B | (word_B == tokens.end), cache

    ids_BT = jnp.full((rows, tokens.length), tokens.pad, jnp.int32).at[:, 0].set(tokens.start)
    return jax.lax.while_loop(unfinished, extend, (jnp.int32(0), ids_BT, jnp.zeros(rows, bool), cache))[1]


class _Beams(NamedTuple):
    position: Array
    live_ids: jax.Array  # [B,K,T], the best unfinished captions
    live: jax.Array  # [B,K], their log-likelihoods
    done_ids: jax.Array  # [B,K,T], the best finished captions
    done: jax.Array  # [B,K], their scores; -inf: none yet
    cache: Any


def beam(
    next_logits: NextLogits, cache: Any, rows: int, beams: int, tokens: SpecialTokens, length_penalty: float
) -> tuple[Int[Array, "B K T"], Float[Array, "B K"]]:
    """Return the K best captions of the search, best first, and their scores: log-likelihood / words^`length_penalty`.

    The number of words includes `end` but not `start`. `length_penalty` is 0 or more. The search stops as soon as no
    unfinished caption can beat the worst of K finished ones.
    """

    def score(log_likelihood: Array, words: jax.Array | int) -> jax.Array:
        return log_likelihood / jnp.asarray(words, jnp.float32) ** length_penalty

    def unfinished(state: _Beams) -> jax.Array:
        bound_B = score(state.live.max(axis=1), tokens.length - 1)  # on the score of every unfinished caption
        return (state.position < tokens.length - 1) & (bound_B > state.done.min(axis=1)).any()

    def extend(state: _Beams) -> _Beams:
        position, K = state.position, beams
        logits_RV, cache = next_logits(state.live_ids[:, :, position].reshape(-1), position, state.cache)
        log_probs_RV = jax.nn.log_softmax(_force_end(logits_RV, position, tokens))
        V = log_probs_RV.shape[-1]
        extended_BX = (state.live.reshape(-1, 1) + log_probs_RV).reshape(rows, K * V)
        # Each beam ends in one way, so at most K of the best 2K end, and K go on.
        top_B2K, index_B2K = jax.lax.top_k(extended_BX, 2 * K)
        parent_B2K, word_B2K = index_B2K // V, index_B2K % V
        ids_B2KT = _select_beams(state.live_ids, parent_B2K).at[:, :, position + 1].set(word_B2K.astype(jnp.int32))
        ends_B2K = word_B2K == tokens.end
        scores_B2K = jnp.where(ends_B2K, score(top_B2K, position + 1), -jnp.inf)
        done, best_BK = jax.lax.top_k(jnp.concatenate([state.done, scores_B2K], axis=1), K)
        done_ids = _select_beams(jnp.concatenate([state.done_ids, ids_B2KT], axis=1), best_BK)
        live, next_BK = jax.lax.top_k(jnp.where(ends_B2K, -jnp.inf, top_B2K), K)
        parent_BK = jnp.take_along_axis(parent_B2K, next_BK, axis=1)
        cache = jax.tree.map(
            lambda x: _select_beams(x.reshape(rows, K, *x.shape[1:]), parent_BK).reshape(x.shape), cache
        )
        return _Beams(position + 1, _select_beams(ids_B2KT, next_BK), live, done_ids, done, cache)

    ids = jnp.full((rows, beams, tokens.length), tokens.pad, jnp.int32).at[:, :, 0].set(tokens.start)
    first_only = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)  # all beams start equal: only the first counts
    live, done = jnp.tile(first_only, (rows, 1)), jnp.full((rows, beams), -jnp.inf)
    final = jax.lax.while_loop(unfinished, extend, _Beams(jnp.int32(0), ids, live, ids, done, cache))
    return final.done_ids, final.done


def _select_beams(x: Array, index_BK: Array) -> jax.Array:
    """Select the beams `index_BK` of every row of x, [B,J,...] -> [B,K,...]."""
    return jax.vmap(lambda row, index: row[index])(x, index_BK)


def _force_end(logits: Array, position: Array, tokens: SpecialTokens) -> jax.Array:
    """Return the logits; at the last position, those of all words but `end` are minus infinity."""
    other = jnp.arange(logits.shape[-1]) != tokens.end
    return jnp.where(other & (position == tokens.length - 2), -jnp.inf, logits)
