"""The gradient of a batch in parts, compared with that of the whole batch at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths, rng
from bridge_jax.config import ConfigError, Mesh
from bridge_jax.step import forward, microbatches, objective, sharding, train_step
from bridge_jax.step.weighting import losses_of, weigh
from bridge_jax.types import Outputs
from tests import tiny

MESH = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1), jax.devices()[:1])
STEP = jnp.int32(3)
SHALLOW = dict(vision=dict(depth=1), text=dict(depth=1), bridge=dict(layers=1))
DROPOUT = dict(text=dict(depth=2, dropout=0.1), bridge=dict(layers=1, attention_dropout=0.1, output_dropout=0.1))


def config(names, parts, group=2, wrong=0, **sections):
    stage = dict(batch_size=8, microbatches=parts, losses=names, wrong_captions=wrong)
    return tiny.config(stage=stage, mining=dict(group=group), **(SHALLOW | sections))


def build(cfg, mesh=MESH):
    return train_step.build(cfg, cfg.stages["train"], 0, mesh)


def computed(cfg, batch):
    """Return loss, metrics and gradients as a training step computes them."""
    live = paths.flatten(tiny.params(cfg))
    function = jax.jit(objective.gradients(cfg, cfg.stages["train"], tuple(live), MESH))
    (total, (metrics, _)), grads = function(live, {}, batch, STEP)
    return total, metrics, grads


def at_once(cfg, batch):
    """Return the same results plainly: a forward pass of each part, one loss of all, one backward pass."""
    stage = cfg.stages["train"]
    rows = np.arange(8).reshape(-1, stage.microbatches, cfg.mining.group or 1)

    @jax.jit  # one program for every part: the whole batch in one program takes much longer to compile
    def passes(params, part, dropout, mining):
        how = forward.Forward(forward.passes_of(stage.losses), lower_frozen=False)
        return forward.outputs(forward.BridgeModel(cfg), params, part, how, forward.Keys(dropout, mining))

    def total(live):
        params, outputs, parts = paths.unflatten(live), [], []
        for index in range(stage.microbatches):
            mine = rows[:, index].ravel()
            part = jax.tree.map(lambda leaf, mine=mine: leaf[mine], batch)
            keys = (jax.random.fold_in(rng.key(cfg.seed, stream, STEP), index) for stream in ("dropout", "mining"))
            outputs.append(passes(params, part, *keys))
            parts.append(part)
        joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        embedded = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *map(microbatches.embeddings_of, outputs))
        compared = dataclasses.replace(outputs[0], **embedded)
        means = {}
        for name in stage.losses:
            if name in ("itc", "sigmoid"):
                means |= {name: losses_of(cfg, (name,), compared, joined)[name].mean}
            else:
                each = [losses_of(cfg, (name,), o, p)[name] for o, p in zip(outputs, parts, strict=True)]
                means |= {name: sum(loss.sum for loss in each) / sum(loss.count for loss in each)}
        return weigh(cfg, params, means)

    (value, metrics), grads = jax.value_and_grad(total, has_aux=True)(paths.flatten(tiny.params(cfg)))
    return value, metrics, grads


def agree(one, other, rel):
    scale = max(np.abs(leaf).max() for leaf in one.values())
    for path, leaf in one.items():
        np.testing.assert_allclose(other[path], leaf, rtol=rel, atol=rel * scale, err_msg=path)


@pytest.mark.parametrize(
    ("weighting", "parts", "losses"),
    [("fixed", 4, tuple(tiny.LOSSES)), ("bounded", 2, ("itc", "itm")), ("learnable", 2, ("itc", "itm"))],
    ids=["fixed", "bounded", "learnable"],
)
def test_parts_are_the_whole_differentiated_at_once(weighting, parts, losses):
    """With dropout: the second pass draws what the first drew. Counts of masked words differ by part."""
    cfg = config(losses, parts, loss_weighting=weighting, **DROPOUT)
    batch = tiny.batch(cfg, 8)
    masked = batch.extras["masked_text"] & (np.arange(8) != 5)[:, None]
    batch = dataclasses.replace(batch, extras=batch.extras | {"masked_text": masked})
    (total, metrics, grads), (expected, wanted, exact) = computed(cfg, batch), at_once(cfg, batch)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert {name: float(metrics[name]) for name in wanted} == pytest.approx(
        {name: float(value) for name, value in wanted.items()}, rel=1e-5
    )
    agree(exact, grads, 1e-5)


@pytest.mark.parametrize(("loss", "wrong"), [("itc", 2), ("sigmoid", 0)])
def test_what_compares_all_rows_does_not_depend_on_the_parts(loss, wrong):
    """With the rows' own wrong captions, which `itc` embeds."""
    whole, split = (config((loss,), parts, group=0, wrong=wrong) for parts in (1, 8))
    batch = tiny.batch(whole, 8)
    one, other = computed(whole, batch), computed(split, batch)
    assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-6)
    assert one[1].keys() == other[1].keys()
    agree(one[2], other[2], 1e-5)


def test_what_compares_the_rows_of_a_group_does_not_depend_on_the_parts():
    whole, split = (config(("token_itc",), parts, losses=dict(token_itc=dict(group=2, weight=1.0))) for parts in (1, 4))
    batch = tiny.batch(whole, 8)
    one, other = computed(whole, batch), computed(split, batch)
    assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-6)
    agree(one[2], other[2], 1e-5)


@pytest.mark.parametrize("loss", ["vqa", "vqa_generative", "nlvr2", "caption"])
def test_a_stage_without_a_comparison(loss):
    """One question has no answer, so the parts have different counts."""
    cfg = config((loss,), 4, group=0)
    batch = tiny.batch(cfg, 8)
    answered = batch.extras["answer_mask"] & (np.arange(8) != 5)[:, None]
    batch = dataclasses.replace(batch, extras=batch.extras | {"answer_mask": answered})
    (total, _, grads), (expected, _, exact) = computed(cfg, batch), at_once(cfg, batch)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    agree(exact, grads, 1e-5)


def test_groups_of_rows_stay_together():
    batch = tiny.batch(config(("itc",), 1), 8)
    split = microbatches.split_rows(batch, 2, 2, MESH)
    assert np.asarray(split.image_ids).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_the_first_bad_tensor_is_named_in_parts_too():
    cfg = config(("itc", "fused_itc", "itm"), 2)
    stage_step = build(cfg)
    state = stage_step.init(jnp.int32(0), tiny.params(cfg))
    batch = dataclasses.replace(tiny.batch(cfg, 8))
    params = paths.flatten(tiny.params(cfg))
    assert stage_step.first_bad(state, batch) == "the norm of the gradients"  # nothing is bad
    path = "heads/fused_text/linear/kernel"
    bad = stage_step.init(jnp.int32(0), paths.unflatten({**params, path: jnp.full_like(params[path], np.nan)}))
    assert stage_step.first_bad(bad, batch) == f"parameter {path}"
    moved, metrics = stage_step.train_step(bad, batch)
    assert not metrics["healthy"]
    assert int(moved.step) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(parts=3), "batch_size 8 is not a multiple of microbatches 3 x config.mining.group 2"),
        (dict(parts=0), "batch_size 8 is not a multiple of microbatches 0"),
        (dict(parts=8), "batch_size 8 is not a multiple of microbatches 8 x config.mining.group 2"),
        (dict(parts=2, group=0), "microbatches is 2, but partners are mined among all rows: set config.mining.group"),
        (dict(parts=2, losses={"fused_itc": {"weight": 1.0, "form": "paper"}}), "form 'paper' compares fused"),
    ],
)
def test_parts_that_cannot_be_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        build(config(("fused_itc",), **changes))


def test_parts_have_to_divide_over_the_devices():
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1), jax.devices("cpu")[:1] * 4)
    with pytest.raises(ConfigError, match="batch_size / microbatches is 2; it must be a multiple of 4"):
        build(config(("itc",), 4, group=1), mesh)


def test_outputs_of_parts_are_stacked():
    cfg = config(("itc",), 2)
    live = paths.flatten(tiny.params(cfg))
    (_, (_, outputs)), _ = objective.gradients(cfg, cfg.stages["train"], tuple(live), MESH)(
        live, {}, tiny.batch(cfg, 8), STEP
    )
    assert isinstance(outputs, Outputs)
    assert outputs.unimodal_text.shape == (2, 4, cfg.bridge.embed_width)
