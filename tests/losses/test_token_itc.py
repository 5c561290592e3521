"""The token-wise contrast against explicit loops over words and patches, and its term of the match logit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import ConfigError
from bridge_jax.losses import token_itc
from bridge_jax.models.token_similarity import QueryKey, token_similarities, token_similarity
from bridge_jax.step.params import param_shapes
from bridge_jax.step.start import start_fused
from bridge_jax.types import Batch, Outputs
from tests import tiny

B, T, P, S = 4, 5, 7, 6
NAMES = ("itm", "token_itc")


def tokens(seed=0):
    draw = np.random.default_rng(seed)
    drawn = [draw.normal(size=(B, L, S)) for L in (T, P, P, T)]
    word, patch, queries, words = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in drawn)
    mask = np.arange(T) < np.array([[5], [3], [1], [4]])
    return QueryKey(word, patch), QueryKey(queries, words), mask


def by_loop(i, j):
    """Return the similarity of text i and image j."""
    by_text, by_image, mask = tokens()
    real = range(int(mask[i].sum()))
    words = [max(by_text.query[i, t] @ by_text.key[j, p] for p in range(P)) for t in real]
    patches = [max(by_image.query[j, p] @ by_image.key[i, t] for t in real) for p in range(P)]
    return (np.mean(words) + np.mean(patches)) / 2


def test_a_pairs_similarity_is_that_of_its_nearest_tokens():
    result = token_similarity(*jax.tree.map(jnp.asarray, tokens()))
    np.testing.assert_allclose(result, [by_loop(i, i) for i in range(B)], rtol=1e-5)


@pytest.mark.parametrize("g", [1, 2, 4])
def test_every_text_is_compared_with_every_image_of_its_group(g):
    grouped = jax.tree.map(lambda rows: jnp.asarray(rows).reshape(-1, g, *rows.shape[1:]), tokens())
    result = token_similarities(*grouped)
    expected = [[[by_loop(G * g + i, G * g + j) for j in range(g)] for i in range(g)] for G in range(B // g)]
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 0, 0]], ids=["all differ", "some alike"])
def test_the_loss_contrasts_the_rows_of_a_group(ids):
    logits = np.random.default_rng(0).normal(size=(2, 2, 2))
    ids = np.array(ids)
    total = 0.0
    for G, group_ids in enumerate(ids.reshape(2, 2)):
        same = group_ids[:, None] == group_ids[None]
        for scores in (logits[G], logits[G].T):
            log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            total -= (log_p * same / same.sum(axis=1, keepdims=True)).sum() / 2
    batch = Batch(image_ids=jnp.asarray(ids), text_mask=None)
    result = token_itc.loss(Outputs(logit_scale=1.0, own={"token_itc": jnp.asarray(logits)}), batch, group=2)
    assert float(result.mean) == pytest.approx(total / B, rel=1e-5)


def test_the_similarity_of_a_fused_pair_is_added_to_its_match_logit():
    with_it, without = tiny.config(stage=dict(losses=NAMES)), tiny.config(stage=dict(losses=NAMES[:1]))
    params = tiny.params(with_it)
    assert "token_itc" not in param_shapes(without)["heads"]
    lower = tiny.lower(with_it, params, tiny.batch(with_it))

    def logit(cfg):
        return tiny.apply(cfg, params, lambda model: model.fused(lower).itm_logit)

    def similarity(model):
        return token_similarity(*model.compared(lower), lower.text_mask)

    head = params["heads"]["token_itc"]
    expected = np.exp(head["log_scale"]) * (tiny.apply(with_it, params, similarity) - head["threshold"])
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(logit(with_it) - logit(without), expected, rtol=1e-4, atol=1e-5)


def test_loss_and_match_logit_use_one_similarity_without_padding():
    cfg = tiny.config(stage=dict(losses=NAMES))
    params, batch = tiny.params(cfg), tiny.batch(cfg)
    noisy = dataclasses.replace(batch, ids=np.where(batch.text_mask, batch.ids, 7).astype(np.int32))
    logits, noisy_logits = (tiny.outputs(cfg, params, each, ("token_itc",)).own["token_itc"] for each in (batch, noisy))
    np.testing.assert_array_equal(logits, noisy_logits)
    lower = tiny.lower(cfg, params, batch)

    def match_logit_term(model):
        return model.heads.by_loss["token_itc"](token_similarity(*model.compared(lower), lower.text_mask))

    head = params["heads"]["token_itc"]
    expected = jnp.diagonal(logits[0]) - jnp.exp(head["log_scale"]) * head["threshold"]
    np.testing.assert_allclose(expected, tiny.apply(cfg, params, match_logit_term), rtol=1e-4, atol=1e-6)


def test_it_trains_only_the_first_attention():
    cfg = tiny.config(stage=dict(losses=NAMES))
    params, batch = paths.flatten(tiny.params(cfg)), tiny.batch(cfg)

    def loss(params):
        outputs = tiny.outputs(cfg, paths.unflatten(params), batch, ("token_itc",))
        return token_itc.loss(outputs, batch, group=0).mean

    grads = jax.grad(loss)(params)
    assert not grads["heads/token_itc/threshold"]  # exactly zero: Adam would turn rounding errors into full steps
    trained = {path for path, grad in grads.items() if np.abs(grad).max() > 1e-9}
    first = "bridge/layer_0"
    maps = {f"{first}/{d}/{m}/kernel" for d in ("text_over_image", "image_over_text") for m in ("query", "key")}
    shared = {f"{first}/{side}_{part}" for side in ("image", "text") for part in ("norm/scale", "to_shared/kernel")}
    assert maps | shared | {"heads/token_itc/log_scale"} <= trained
    assert not any("/value/" in path or "/out/" in path for path in trained if path.startswith("bridge/"))
    assert not any(path.startswith(("bridge/layer_1", "heads/itm", "heads/fused")) for path in trained)


def test_starting_the_fused_parts_keeps_the_trained_attention():
    cfg = tiny.config(stage=dict(losses=NAMES))
    params = tiny.params(cfg)
    started = start_fused(cfg, params)
    assert started["bridge"]["layer_0"] is params["bridge"]["layer_0"]
    assert not np.array_equal(*(tree["bridge"]["layer_1"]["image_to_shared"]["kernel"] for tree in (params, started)))


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        (3, {}, r"losses\.token_itc\.group is 3, which does not divide config\.stages\.train\.batch_size = 4"),
        (2, dict(bridge=dict(design="pooled")), "token_itc reads the bridge's attention, which design 'pooled'"),
        (0, dict(microbatches=2), r"microbatches is 2, but token_itc compares .* divisor of config\.mining\.group"),
        (2, dict(microbatches=2), r"microbatches is 2, but token_itc compares .* divisor of config\.mining\.group"),
    ],
)
def test_a_config_that_does_not_fit_raises_config_error(group, changes, message):
    stage = dict(losses=("token_itc",), microbatches=changes.get("microbatches", 1))
    rest = {key: value for key, value in changes.items() if key != "microbatches"}
    with pytest.raises(ConfigError, match=message):
        tiny.config(stage=stage, losses=dict(token_itc=dict(weight=1.0, group=group)), **rest)
