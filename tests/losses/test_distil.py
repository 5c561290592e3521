"""Distillation: against a loop over candidates, and in a real step only the towers move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.losses import distil
from bridge_jax.step import forward
from bridge_jax.types import Batch, Candidates, Outputs
from tests import tiny

# Query 0 has two valid partners, query 1 one, query 2 none, so it does not count.
VALID = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], bool)
BATCH = Batch(image_ids=np.array([4, 5, 4]), text_mask=np.ones((3, 1), bool))
SCALE = 5.0


def drawn(seed):
    draw = np.random.default_rng(seed)
    logits, cosines = draw.normal(scale=3.0, size=(3, 3)), draw.uniform(-1, 1, size=(3, 3))
    fields = dict(itm_logit=jnp.float32(logits), unimodal=jnp.float32(cosines), valid=jnp.asarray(VALID))
    return Candidates(similarity=None, **fields)


def by_loop(candidates):
    """Return the sum of divergences, the number of queries, and how many of the wrong candidates agree."""
    total, count, agreed, wrong = 0.0, 0, 0, 0
    for logits, cosines, valid in zip(candidates.itm_logit, candidates.unimodal, VALID, strict=True):
        if not valid[1:].any():
            continue
        kept = np.flatnonzero(valid)
        p, q = (np.exp(x - np.max(x)) for x in (np.asarray(logits)[kept], SCALE * np.asarray(cosines)[kept]))
        p, q = p / p.sum(), q / q.sum()
        total, count = total + float(np.sum(p * np.log(p / q))), count + 1
        for c in kept[1:]:
            agreed += (logits[0] > logits[c]) == (cosines[0] > cosines[c])
            wrong += 1
    return total, count, agreed / wrong


def test_it_is_the_divergence_of_each_query_in_both_directions():
    outputs = Outputs(logit_scale=jnp.float32(SCALE), by_text=drawn(0), by_image=drawn(1))
    text, image = by_loop(outputs.by_text), by_loop(outputs.by_image)
    result = distil.loss(outputs, BATCH)
    assert result.sum == pytest.approx((text[0] + image[0]) / 2, rel=1e-5)
    assert result.count == 2
    assert result.metrics["agreement"] == pytest.approx((text[2] + image[2]) / 2)


def test_equal_orders_lose_nothing_and_what_is_not_valid_gets_no_gradient():
    candidates = drawn(0)
    equal = candidates.replace(itm_logit=SCALE * candidates.unimodal)
    outputs = Outputs(logit_scale=jnp.float32(SCALE), by_text=equal, by_image=equal)
    assert distil.loss(outputs, BATCH).sum == pytest.approx(0, abs=1e-6)

    def total(cosines):
        changed = candidates.replace(unimodal=cosines)
        return distil.loss(Outputs(logit_scale=SCALE, by_text=changed, by_image=changed), BATCH).sum

    gradient = np.asarray(jax.grad(total)(candidates.unimodal))
    assert np.isfinite(gradient).all()
    assert (gradient[~VALID] == 0).all()
    assert (gradient[:2][VALID[:2]] != 0).all()


def test_it_moves_the_towers_and_their_heads_and_never_the_bridge():
    cfg = tiny.config(stage=dict(losses=("distil",)))
    params, batch = paths.flatten(tiny.params(cfg)), tiny.batch(cfg)

    def total(params):
        outputs = tiny.outputs(cfg, paths.unflatten(params), batch, forward.passes_of(("distil", "itc")))
        return distil.loss(outputs, batch).mean

    moved = {path for path, gradient in jax.grad(total)(params).items() if np.abs(gradient).max() > 0}
    assert not any(path.startswith(("bridge/", "heads/itm/", "heads/fused_")) for path in moved)
    assert {"heads/unimodal_text/linear/kernel", "heads/unimodal_image/linear/kernel"} <= moved
    assert any(path.startswith("vision/") for path in moved)
    assert any(path.startswith("text/") for path in moved)
