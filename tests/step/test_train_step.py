"""The training step on the tiny experiment: what moves, what never does, and what happens to a bad number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.step import optim, sharding, train_step, weighting
from bridge_jax.step.params import init_params
from bridge_jax.types import Batch

ROWS, LENGTH, WIDTH = 8, 16, 32


def build(cfg):
    mesh = sharding.make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))
    return train_step.build(cfg, cfg.stages["align"], 4, mesh)


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny(depth=2)
    del settings.losses.mlm  # no stage has it: it would leave a head that nothing moves
    return config.parse(settings)


@pytest.fixture(scope="module")
def align(cfg):
    """Return the stage that trains the layers above cached states."""
    return build(cfg)


@pytest.fixture(scope="module")
def params(cfg):
    return paths.flatten(jax.device_get(init_params(cfg)))


def batch(**changes):
    draw = np.random.default_rng(0)
    mask = np.arange(LENGTH) < draw.integers(3, LENGTH, (ROWS, 1))
    lower = {
        "lower_image": draw.normal(size=(ROWS, 5, WIDTH)).astype(np.float16),
        "lower_text": draw.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float16),
    }
    return Batch(image_ids=np.arange(ROWS, dtype=np.int32), text_mask=mask, **(lower | changes))


def state_of(stage_step, params, **changes):
    return stage_step.init(jnp.int32(6), paths.unflatten({**params, **changes}))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(tree))]


def test_the_same_state_and_batch_give_the_same_bits(align, params):
    one, two = (align.train_step(state_of(align, params), batch()) for _ in range(2))
    assert bits(one) == bits(two)
    later = align.train_step(dataclasses.replace(state_of(align, params), step=jnp.int32(7)), batch())
    assert float(later[1]["loss"]) != float(one[1]["loss"])  # other dropout


def test_compiling_gives_back_the_memory_that_is_free(align, params):
    """The kernel takes back what malloc keeps: 256 MB between blocks that are still held, as compiling leaves it."""
    state, one = state_of(align, params), batch()
    align.compiled(state, one)
    blocks = [bytes(1000) for _ in range(256_000)]
    blocks[:] = blocks[::1000]
    before = psutil.Process().memory_info().rss
    state, metrics = align.compiled(state, one)(state, one)
    assert psutil.Process().memory_info().rss < before - 150e6
    assert metrics["healthy"]


@pytest.mark.parametrize(
    ("loss", "arguments", "says"),
    [
        ("mim", {"targets": "pixels"}, r"config\.losses\.mim\.targets is not a key; nearest: 'target'"),
        ("vqa", {}, r"config\.losses\.vqa\.answers is missing"),
        ("itcc", {}, r"config\.losses\.itcc is unknown; nearest: 'itc'"),
    ],
)
def test_a_loss_that_no_stage_uses_is_checked(tiny, loss, arguments, says):
    """The losses of all stages define the heads."""
    settings = tiny(depth=2)
    settings.losses[loss] = {"weight": 1.0, **arguments}
    with pytest.raises(ConfigError, match=says):
        config.parse(settings)


def test_only_what_trains_moves_and_has_optimizer_state(align, params):
    state = state_of(align, params)
    for _ in range(3):  # the first has rate 0; the match head's hidden layer waits for its last, which starts at zero
        state, metrics = align.train_step(state, batch())
    after = paths.flatten(jax.device_get(state.params))
    moved = {path for path in params if not np.array_equal(after[path], params[path])}
    assert moved == set(align.trainable)
    assert not any(path.startswith(("vision/block_00/", "text/block_00/", "vision/patch")) for path in moved)
    sizes = sum(leaf.size for path, leaf in params.items() if path in align.trainable)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) <= 2 * sizes
    assert (int(state.step), bool(state.healthy), bool(metrics["healthy"])) == (9, True, True)


def test_a_bad_step_changes_nothing_and_the_state_stays_bad(align, params):
    begun = jax.device_get(state_of(align, params))
    bad = batch(lower_text=np.full((ROWS, LENGTH, WIDTH), np.nan, np.float16))
    state, metrics = align.train_step(state_of(align, params), bad)
    assert not metrics["healthy"]
    assert bits(dataclasses.replace(begun, healthy=np.array(False))) == bits(state)
    state, metrics = align.train_step(state, batch())
    assert np.isfinite(metrics["loss"])
    assert not metrics["healthy"]
    assert bits(dataclasses.replace(begun, healthy=np.array(False))) == bits(state)


@pytest.mark.parametrize(
    ("planted", "rows", "named"),
    [
        ({"heads/fused_text/linear/kernel": np.nan}, {}, "parameter heads/fused_text/linear/kernel"),
        ({"vision/block_00/norm_1/scale": np.inf}, {}, "parameter vision/block_00/norm_1/scale"),
        ({}, {"lower_image": np.nan}, "output unimodal_image"),
        ({}, {"lower_text": np.nan}, "output unimodal_text"),
    ],
)
def test_the_first_bad_tensor_is_named(align, params, planted, rows, named):
    known = [path for path in params if path.startswith("vision/block_00/") and path.endswith("/scale")]
    for old, value in list(planted.items()):
        path = old if old in params else known[0]
        named = f"parameter {path}"
        planted = {path: np.full_like(params[path], value)}
    changes = {name: np.full_like(getattr(batch(), name), value) for name, value in rows.items()}
    assert align.first_bad(state_of(align, params, **planted), batch(**changes)) == named


def test_an_infinite_gradient_is_named(align, params, cfg, monkeypatch):
    real = weighting.combine

    @jax.custom_jvp
    def steep(x):
        return x

    steep.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.inf))

    def combine(cfg, names, params, outputs, batch):
        total, metrics = real(cfg, names, params, outputs, batch)
        return total + 0.0 * steep(params["bridge"]["layer_0"]["image_gate"]), metrics

    monkeypatch.setattr(weighting, "combine", combine)
    stage_step = build(cfg)
    name = stage_step.first_bad(state_of(stage_step, params), batch())
    assert name == "gradient of bridge/layer_0/image_gate"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(top_blocks=2), r"cached_crops is 2, but the stage trains '.*block_00.*', below the first bridged"),
        (dict(losses=("mlm",)), "cached_crops is 2, but the cache holds pictures and captions, and mlm reads more"),
    ],
)
def test_cached_states_with_what_they_cannot_serve_are_refused(tiny, changes, says):
    settings = tiny(depth=2)
    settings.losses.mlm = dict(weight=1.0, mask_fraction=0.15)
    with settings.unlocked():
        settings.stages.align.update(changes)
    with pytest.raises(ConfigError, match=says):
        build(config.parse(settings))


def test_a_spike_is_a_bad_step_and_only_applied_losses_are_remembered(cfg, params):
    watching = dataclasses.replace(cfg.bad_steps, spike_sigma=3.0, spike_window=4)
    mesh = sharding.make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))
    stage_step = train_step.build(dataclasses.replace(cfg, bad_steps=watching), cfg.stages["align"], 4, mesh)

    def after(count, window):
        state = state_of(stage_step, params)
        seen = optim.LossWindow(jnp.int32(count), jnp.asarray(window, jnp.float32))
        state = dataclasses.replace(state, opt_state=(*state.opt_state[:-1], seen))
        begun = jax.tree.map(jnp.copy, state)
        return begun, *stage_step.train_step(state, batch())

    _, state, metrics = after(3, [0.1, 0.2, 0.1, 0.0])  # not full
    assert metrics["healthy"]
    loss = float(metrics["loss"])
    np.testing.assert_allclose(state.opt_state[-1].window, [0.1, 0.2, 0.1, loss], rtol=1e-6)
    begun, state, metrics = after(4, [0.1, 0.2, 0.1, 0.2])  # 0.15 + 3 x 0.05
    assert not metrics["healthy"]
    assert bits(dataclasses.replace(begun, healthy=np.array(False))) == bits(state)
    assert stage_step.first_bad(begun, batch()) == "the loss, a spike above 0.3"
    _, state, metrics = after(4, [loss - 1, loss + 1, loss - 1, loss + 1])
    assert metrics["healthy"]
