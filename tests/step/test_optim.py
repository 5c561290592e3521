"""Which parameters train, at which rate, and which decay: in the real configs, the golden tables and an update."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.step import optim
from bridge_jax.step.params import param_shapes
from tests import process, tiny
from tools import show_params

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py")
    if path.stem != "common" and "def get_config" in path.read_text(encoding="utf-8")
)  # fmt: skip

# golden table -> its config
WITH_ARGUMENT = {f"shapes_{task}": f"shapes.py:task={task}" for task in ("vqa", "nlvr2", "caption")}
WITH_ARGUMENT["shapes_retrieval_long"] = "shapes.py:task=retrieval,time=long"
WITH_ARGUMENT["vqav2_generative"] = "vqav2.py:form=generative"


def load(name: str) -> config.Config:
    module, _, argument = WITH_ARGUMENT.get(name, f"{name}.py").partition(".py")
    arguments = [argument.removeprefix(":")] if argument else []
    return config.parse(importlib.import_module(f"configs.{module}").get_config(*arguments))


def paths_of(cfg: config.Config) -> list[str]:
    return paths.every(param_shapes(cfg))


@pytest.mark.parametrize("name", [*CONFIGS, *WITH_ARGUMENT])
def test_golden_table(name):
    """Every parameter of every config: a change of rules is reviewed line by line."""
    golden = ROOT / "tests" / "golden" / f"{name}.txt"
    source = WITH_ARGUMENT.get(name, f"{name}.py")
    how = f"python -m tools.show_params --config=configs/{source} > tests/golden/{name}.txt"
    table = show_params.table(load(name))
    assert golden.exists(), f"no golden table; look at it and keep it: {how}"
    expected = golden.read_text(encoding="utf-8")
    changed = set(table.splitlines()) ^ set(expected.splitlines())
    assert table == expected, f"{len(changed)} lines differ; if the change is meant, review and commit: {how}"


def test_no_golden_table_without_its_config():
    assert {path.stem for path in (ROOT / "tests" / "golden").glob("*.txt")} == {*CONFIGS, *WITH_ARGUMENT}


@pytest.mark.parametrize("name", [*CONFIGS, *WITH_ARGUMENT])
def test_decay_touches_matrices_and_nothing_else(name):
    """By shape: only kernels and the word table decay; scalars and biases never do."""
    cfg = load(name)
    flat = paths.flatten(param_shapes(cfg))
    decayed = optim.decayed(cfg, flat)
    assert decayed.keys() == flat.keys()
    for path, leaf in flat.items():
        assert decayed[path] == (path.endswith("/kernel") or path.endswith("/word/embedding")), path
        assert not decayed[path] or leaf.ndim >= 2, path


@pytest.mark.parametrize("name", CONFIGS)
def test_trainable_paths_of_every_stage(name):
    """`stage.train` as sets: bridge, heads and the towers' top K blocks, or everything, or the decoder alone."""
    cfg = load(name)
    known = paths_of(cfg)
    for stage in cfg.run_stages:
        trained = set(optim.trainable_paths(cfg, stage, known))
        if stage.losses == ("caption",) and name in ("caption", "nocaps"):
            assert trained == {p for p in known if p.startswith("decoder/")}
            continue
        assert {p for p in known if p.startswith(("bridge/", "heads/"))} <= trained
        if any(pattern == ".*" and trains for pattern, trains in stage.train):
            assert trained == set(known)
            continue
        blocks = {
            re.match(r"(vision|text)/(block_\d+|norm)?", p)[0] for p in trained if p.startswith(("vision", "text"))
        }
        expected = set()
        for tower, depth in (("vision", cfg.vision.depth), ("text", cfg.text.depth)):
            expected |= {f"{tower}/block_{i:02d}" for i in range(depth - stage.top_blocks, depth)}
        assert blocks == expected | ({"vision/norm"} if stage.top_blocks else set())


@pytest.mark.parametrize("name", CONFIGS)
def test_scalars_of_the_bridge_run_at_a_rate_of_their_own(name):
    """Gates went from 0.100 to 0.095 in 550 steps at the matrices' rate (docs/method.md 5.14)."""
    cfg = load(name)
    shapes = paths.flatten(param_shapes(cfg))
    for stage in cfg.run_stages:
        factors = optim.lr_factors(stage, list(shapes))
        scalars = {p for p, leaf in shapes.items() if leaf.shape == ()}
        assert len(scalars) == 4 * cfg.bridge.layers + 3 + 2 * ("token_itc" in cfg.losses)
        assert {factors[p] for p in scalars} == {20.0}
        assert {factors[p] for p in shapes if p.startswith(("vision/", "text/"))} == {1.0}


def test_too_many_top_blocks_are_named():
    cfg = tiny.config(stage=dict(top_blocks=4))
    with pytest.raises(ConfigError, match=r"config\.stages\.train\.top_blocks is 4; the towers have 4 and 3 blocks"):
        optim.trainable_paths(cfg, cfg.stages["train"], paths_of(cfg))


@pytest.mark.parametrize(
    ("train", "line"),
    [
        (((".*", False),), r"config\.stages\.train\.train: nothing trains; set at least one rule to True"),
        (((".*", 1),), r"config\.stages\.train\.train: '.*' got 1; expected True or False"),
        ((("vison/.*", True), (".*", True)), r"rule 'vison/\.\*' matches no parameter; nearest: 'vision/\.\*'"),
        ((("vision/.*", True),), r"no rule matches parameter 'bridge/"),
    ],
)
def test_wrong_rules_are_named(train, line):
    cfg = tiny.config(stage=dict(train=train))
    with pytest.raises(ConfigError, match=line):
        optim.trainable_paths(cfg, cfg.stages["train"], paths_of(cfg))


def test_schedule_warms_up_and_falls_along_a_cosine_to_zero():
    stage = tiny.config(stage=dict(steps=100, warmup_fraction=0.1, learning_rate=2.0)).stages["train"]
    rate = optim.schedule(stage)
    assert [float(rate(s)) for s in (0, 5, 10)] == pytest.approx([0.0, 1.0, 2.0])
    for now in (10, 40, 55, 99, 100):
        assert float(rate(now)) == pytest.approx(1 + np.cos(np.pi * (now - 10) / 90), abs=1e-6)


@pytest.mark.parametrize(("steps", "fraction", "first"), [(100, 0.0, 2.0), (1, 0.5, 0.0), (1, 0.0, 2.0), (5, 1.0, 0.0)])
def test_schedule_of_short_stages_is_finite(steps, fraction, first):
    stage = tiny.config(stage=dict(steps=steps, warmup_fraction=fraction, learning_rate=2.0)).stages["train"]
    rates = [float(optim.schedule(stage)(s)) for s in range(steps + 1)]
    assert rates[0] == first
    assert np.isfinite(rates).all()
    assert max(rates) <= 2.0


# A real update, against AdamW by hand. Weights of 2, gradients of one size a leaf: Adam's first step is their sign.
FACTORS = ((".*gate", 20.0), ("(bridge|heads)/.*", 10.0), (".*", 1.0))
STAGE = dict(steps=1000, warmup_fraction=0.0, learning_rate=1e-3, weight_decay=0.4, lr_factors=FACTORS)
PROBED = ("text/word/embedding", "text/block_00/mlp/up/kernel", "text/block_00/mlp/up/bias", "vision/norm/scale",
          "bridge/layer_0/image_gate", "bridge/layer_0/text_over_image/tau", "bridge/layer_0/image_to_shared/kernel",
          "bridge/layer_0/text_over_image/position_bias", "heads/log_scale", "heads/itm/scale", "heads/itm/threshold",
          "heads/fused_text/linear/kernel")  # fmt: skip


def update():
    cfg = tiny.config(stage=STAGE)
    params = {path: jnp.full_like(leaf, 2.0) for path, leaf in paths.flatten(tiny.params(cfg)).items()}
    tx = optim.optimizer(cfg, cfg.stages["train"], list(params))
    live = {path: params[path] for path in PROBED}
    state = tx.init(live)
    grads = {path: jnp.full_like(leaf, 3.0 * (-1) ** i) for i, (path, leaf) in enumerate(live.items())}
    return tx.update(grads, state, live)[0], grads, state


def test_each_group_moves_at_its_own_rate():
    updates, grads, _ = update()
    for path, moved in updates.items():
        factor = 20 if path.endswith("gate") else 10 if path.startswith(("bridge", "heads")) else 1
        decay = 0.4 * 2.0 if path.endswith("/kernel") or path == "text/word/embedding" else 0.0
        expected = -1e-3 * factor * (np.sign(np.asarray(grads[path])) + decay)
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-8, err_msg=path)


def test_gradients_are_clipped_by_their_norm_over_all_that_trains():
    """Adam's first step hides the size of a gradient; its second moment does not."""
    cfg = tiny.config(stage={**STAGE, "clip_norm": 0.5})
    params = paths.flatten(tiny.params(cfg))
    live = {path: params[path] for path in PROBED}
    tx = optim.optimizer(cfg, cfg.stages["train"], list(params))
    for size, clipped in ((3.0, True), (1e-6, False)):
        grads = {path: jnp.full_like(leaf, size) for path, leaf in live.items()}
        norm = size * float(np.sqrt(sum(leaf.size for leaf in live.values())))
        assert (norm > 0.5) == clipped
        _, state = tx.update(grads, tx.init(live), live)
        seen = size * 0.5 / norm if clipped else size
        for path, second in adam(state).nu.items():
            np.testing.assert_allclose(second, (1 - 0.98) * seen**2, rtol=1e-3, err_msg=path)


def adam(state):
    return next(part for part in state if isinstance(part, optax.ScaleByAdamState))


def test_optimizer_state_exists_for_trainable_leaves_alone():
    _, _, state = update()
    assert set(adam(state).mu) == set(adam(state).nu) == set(PROBED)
    moments = sum(leaf.size for leaf in adam(state).mu.values())
    rest = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == () and leaf.dtype == jnp.int32]
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * moments + len(rest)


def test_split_and_unflatten_are_inverse():
    params = tiny.params(tiny.config())
    live, frozen = paths.split(params, PROBED)
    assert set(live) == set(PROBED)
    assert not live.keys() & frozen.keys()
    jax.tree.map(np.testing.assert_array_equal, paths.unflatten({**frozen, **live}), params)


def test_show_params_prints_the_table():
    done = process.run("tools.show_params", "--config=configs/shapes.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == show_params.table(load("shapes"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--config is missing"),
        (["--config=configs/nowhere.py"], "No such file or directory: 'configs/nowhere.py'"),
        (["--config=configs/shapes.py", "--config.stages.align.top_blocks=9"], "config.stages.align.top_blocks is 9"),
        (["configs/shapes.py"], "unexpected argument 'configs/shapes.py'"),
    ],
)
def test_show_params_names_what_is_wrong_and_exits_2(arguments, line):
    done = process.run("tools.show_params", *arguments)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
