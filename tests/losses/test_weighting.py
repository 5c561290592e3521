"""The weighting of a stage's losses: `combine` with fixed, bounded and learnable weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.step.params import param_shapes
from bridge_jax.step.weighting import combine
from bridge_jax.types import Batch, Candidates, Outputs
from tests import tiny

NAMES = ("itc", "fused_itc", "itm")
WEIGHTS = {"itc": 2.0, "fused_itc": 0.5, "itm": 1.0}
BATCH = Batch(image_ids=np.arange(3), text_mask=np.ones((3, 1), bool))


def config(weighting: str):
    losses = {name: {"weight": weight, **tiny.LOSSES[name]} for name, weight in WEIGHTS.items()}
    return tiny.config(stage=dict(losses=NAMES), losses=losses, loss_weighting=weighting)


def outputs() -> Outputs:
    draw = np.random.default_rng(0)
    made = [
        Candidates(
            similarity=jnp.asarray(draw.normal(size=(3, 2))),
            itm_logit=jnp.asarray(draw.normal(size=(3, 2))),
            unimodal=None,
            valid=jnp.ones((3, 2), bool),
        )
        for _ in range(2)
    ]
    text, image = (jnp.asarray(draw.normal(size=(3, 4))) for _ in range(2))
    return Outputs(
        logit_scale=jnp.float32(1), unimodal_text=text, unimodal_image=image, by_text=made[0], by_image=made[1]
    )


def raw(*values):
    return {"loss_weights": {name: jnp.float32(v) for name, v in zip(NAMES, values, strict=True)}}


def means():
    return {name: float(value) for name, value in tiny.loss_values(config("fixed"), outputs(), BATCH).items()}


def test_fixed():
    total, metrics = combine(config("fixed"), NAMES, {}, outputs(), BATCH)
    assert total == pytest.approx(sum(WEIGHTS[n] * means()[n] for n in NAMES), rel=1e-6)
    for name in NAMES:
        assert metrics[f"{name}/loss"] == pytest.approx(means()[name], rel=1e-6)
        assert metrics[f"{name}/weight"] == WEIGHTS[name]
    assert {"itc/accuracy", "fused_itc/accuracy", "itm/two_way_accuracy"} <= metrics.keys()


def test_only_the_stages_losses_count():
    total, metrics = combine(config("fixed"), ("itm",), {}, outputs(), BATCH)
    assert total == pytest.approx(means()["itm"], rel=1e-6)
    assert {name.partition("/")[0] for name in metrics} == {"itm"}


@pytest.mark.parametrize("weighting", ["bounded", "learnable"])
def test_starts_at_the_configured_weights(weighting):
    total, metrics = combine(config(weighting), NAMES, raw(0, 0, 0), outputs(), BATCH)
    assert total == pytest.approx(sum(WEIGHTS[n] * means()[n] for n in NAMES), rel=1e-5)
    for name in NAMES:
        assert metrics[f"{name}/weight"] == pytest.approx(WEIGHTS[name], rel=1e-5)


@pytest.mark.parametrize("values", [(0.3, -0.2, 1.0), (50, -50, 0), (-1e6, 1e6, 1e6)])
def test_bounded_keeps_the_sum_and_a_ratio_within_e_squared(values):
    """The paper's alpha ran from 0.62 to 0.95 in 1000 steps (docs/method.md 5.8)."""
    total, metrics = combine(config("bounded"), NAMES, raw(*values), outputs(), BATCH)
    weights = {name: float(metrics[f"{name}/weight"]) for name in NAMES}
    assert sum(weights.values()) == pytest.approx(sum(WEIGHTS.values()), rel=1e-5)
    assert total == pytest.approx(sum(weights[n] * means()[n] for n in NAMES), rel=1e-5)
    moved = [weights[n] / WEIGHTS[n] for n in NAMES]
    assert max(moved) / min(moved) <= np.e**2 * (1 + 1e-5)
    expected = np.exp(np.tanh(values)) * np.array(list(WEIGHTS.values()))
    np.testing.assert_allclose(list(weights.values()), 3.5 * expected / expected.sum(), rtol=1e-5)


def test_learnable_weights_follow_kendalls_gradient():
    """d/da (w exp(-a) l + a) = 1 - w exp(-a) l: a grows where the weighted loss exceeds one; at rest it equals one."""
    values, cfg = (0.3, -0.2, 1.0), config("learnable")

    def total(params):
        return combine(cfg, NAMES, params, outputs(), BATCH)[0]

    expected = {n: 1 - WEIGHTS[n] * np.exp(-a) * means()[n] for n, a in zip(NAMES, values, strict=True)}
    gradients = jax.grad(total)(raw(*values))["loss_weights"]
    for name in NAMES:
        assert gradients[name] == pytest.approx(expected[name], rel=1e-4)
    at_rest = jax.grad(total)(raw(*(np.log(WEIGHTS[n] * means()[n]) for n in NAMES)))["loss_weights"]
    assert all(abs(value) < 1e-5 for value in at_rest.values())


def test_weights_are_parameters_only_if_they_are_learned():
    def shapes(weighting):
        return param_shapes(config(weighting))

    assert "loss_weights" not in shapes("fixed")
    assert set(shapes("bounded")["loss_weights"]) == set(shapes("learnable")["loss_weights"]) == set(NAMES)


def compute_outputs(cfg, params, batch):
    return jax.jit(lambda params, batch: tiny.outputs(cfg, params, batch))(params, batch)


def test_losses_are_float32_under_bfloat16():
    cfg = dataclasses.replace(tiny.config(), compute_dtype="bfloat16")
    params, batch = tiny.params(cfg), tiny.batch(cfg)
    half_outputs = compute_outputs(cfg, params, batch)
    total, metrics = combine(cfg, cfg.stages["train"].losses, params, half_outputs, batch)
    assert total.dtype == jnp.float32
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}
    exact = tiny.config()
    near = tiny.loss_values(exact, compute_outputs(exact, params, batch), batch)
    for name in near:  # Mining uses bfloat16 cosines too, which rarely changes a partner among four pairs.
        assert metrics[f"{name}/loss"] == pytest.approx(float(near[name]), rel=0.05), name
