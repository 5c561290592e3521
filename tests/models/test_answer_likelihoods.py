"""Likelihoods of all answers in chunks, against each answer to each question scored alone by the whole decoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bridge_jax import paths
from bridge_jax.models import search
from bridge_jax.types import Lower
from tests import tiny

LENGTHS = (3, 6, 3, 4, 3, 3, 5, 4, 2, 3)  # of the answers, start and end included; one answer has no word


@pytest.fixture(scope="module")
def cfg():
    return tiny.config(stage=dict(losses=("vqa_generative",)))


@pytest.fixture(scope="module")
def params(cfg):
    """Return parameters of a decoder that depends strongly on the states it reads."""
    flat = paths.flatten(tiny.params(cfg))
    return paths.unflatten(
        {path: 4 * x if path.startswith("decoder") and "cross_attention/out" in path else x for path, x in flat.items()}
    )


@pytest.fixture(scope="module")
def words(cfg):
    """Return ids and mask of the answers; the padding after an answer is noise, not zeros."""
    draw = np.random.default_rng(3)
    mask = np.arange(cfg.text.length) < np.array(LENGTHS)[:, None]
    ids = draw.integers(3, cfg.text.vocab_size, mask.shape)
    ids[:, 0], ids[np.arange(len(ids)), np.array(LENGTHS) - 1] = 1, 2
    return ids.astype(np.int32), mask


@pytest.fixture(scope="module")
def lower(cfg, params):
    return tiny.lower(cfg, params, tiny.batch(cfg))


def likelihoods(cfg, params, lower, words):
    answers = [ids[mask].tolist() for ids, mask in zip(*words, strict=True)]
    run = jax.jit(lambda params, lower: tiny.apply(cfg, params, lambda m: search.likelihoods(m, lower, answers)))
    return np.asarray(run(params, lower))


def score_alone(cfg, params, lower, ids, mask):
    """Score one answer to each of B questions, one question and one whole padded row of words at a time."""
    log_likelihoods = []
    for row in range(len(lower.text_mask)):
        question = Lower(*(x[row : row + 1] for x in (lower.image, lower.text, lower.text_mask)))
        logits = tiny.apply(cfg, params, lambda m, q=question: m.decoder(jnp.asarray(ids[None]), m.memory(q)))
        log_probs = scipy.special.log_softmax(np.asarray(logits[0], np.float64), axis=-1)
        log_likelihoods.append(sum(log_probs[t - 1, ids[t]] for t in range(1, int(mask.sum()))))
    return log_likelihoods


@pytest.fixture(scope="module")
def one_by_one(cfg, params, lower, words):
    return np.array([score_alone(cfg, params, lower, ids, mask) for ids, mask in zip(*words, strict=True)]).T


@pytest.mark.parametrize("logit_limit", [1, 4 * 20 * 2 * 3, 2**26])
@pytest.mark.parametrize("scan", [False, True])
def test_likelihoods_in_chunks_equal_those_of_each_answer_alone(
    params, lower, words, one_by_one, logit_limit, scan, monkeypatch
):
    """The limits allow one answer at a time; three of three tokens, so the second chunk is padded; all of a length."""
    monkeypatch.setattr(search, "LOGITS", logit_limit)
    cfg = tiny.config(stage=dict(losses=("vqa_generative",)), blocks=dict(scan=scan))
    computed = likelihoods(cfg, params, lower, words)
    np.testing.assert_allclose(computed, one_by_one, atol=2e-5)
    np.testing.assert_array_equal(np.argsort(computed), np.argsort(one_by_one))
    assert len({tuple(order) for order in np.argsort(computed)}) > 1


def test_likelihoods_do_not_depend_on_the_other_answers(cfg, params, lower, words, one_by_one):
    order = np.array([7, 0, 2, 8])
    computed = likelihoods(cfg, params, lower, tuple(x[order] for x in words))
    np.testing.assert_allclose(computed, one_by_one[:, order], atol=2e-5)


@pytest.mark.parametrize("changed", [("ids", "text_mask"), ("images",)])
def test_question_and_picture_change_the_ranking(cfg, params, words, changed):
    """All rows equal the first except for the fields in `changed`."""
    batch, fields = tiny.batch(cfg), {"images", "ids", "text_mask"} - {*changed}
    kept = {name: getattr(batch, name)[np.zeros(4, int)] for name in fields}
    computed = likelihoods(cfg, params, tiny.lower(cfg, params, dataclasses.replace(batch, **kept)), words)
    assert np.abs(computed[1:] - computed[:1]).max() > 0.01
    assert len({tuple(order) for order in np.argsort(computed)}) > 1


def test_padding_of_the_question_changes_nothing(cfg, params, words):
    batch = tiny.batch(cfg)
    noise = np.where(batch.text_mask, batch.ids, 7)
    assert (noise != batch.ids).any()
    computed, with_noise = (
        likelihoods(cfg, params, tiny.lower(cfg, params, dataclasses.replace(batch, ids=ids)), words)
        for ids in (batch.ids, noise)
    )
    np.testing.assert_array_equal(computed, with_noise)
