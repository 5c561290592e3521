"""The factored optimizer: its update, and the state that it keeps."""

import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax import paths
from bridge_jax.step import optim
from bridge_jax.step.params import param_shapes
from tests import tiny

STAGE = dict(learning_rate=1e-3, warmup_fraction=0.0, weight_decay=0.0, clip_norm=1e9, lr_factors=((".*", 1.0),))


def test_adafactor_scales_by_rows_and_columns_and_keeps_next_to_nothing():
    """The first update of a matrix as Shazeer and Stern's algorithm 4 gives it, and the bytes beside AdamW's."""
    cfg = {name: tiny.config(stage={**STAGE, "optimizer": name}) for name in ("adamw", "adafactor")}
    path, shape = "vision/block_00/mlp/up/kernel", (256, 384)
    params, gradient = jnp.zeros(shape), np.random.default_rng(0).normal(size=shape).astype(np.float32)
    known = paths.every(param_shapes(cfg["adamw"]))
    states, updates = {}, {}
    for name, each in cfg.items():
        tx = optim.optimizer(each, each.stages["train"], known)
        updates[name], states[name] = tx.update({path: gradient}, tx.init({path: params}), {path: params}, loss=0.0)
    squared = gradient**2 + 1e-30
    rows, columns = squared.mean(axis=1, keepdims=True), squared.mean(axis=0, keepdims=True)
    scaled = gradient / np.sqrt(rows * columns / rows.mean())
    scaled /= max(1.0, np.sqrt((scaled**2).mean()))
    expected = -STAGE["learning_rate"] * scaled
    np.testing.assert_allclose(updates["adafactor"][path], expected, rtol=1e-4, atol=1e-9)
    size = {name: sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state)) for name, state in states.items()}
    assert size["adamw"] > 2 * gradient.nbytes
    assert size["adafactor"] < 0.02 * gradient.nbytes
