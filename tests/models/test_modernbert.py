"""ModernBERT on captions longer than its window; test_text_towers.py tests the rest."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from bridge_jax import paths
from bridge_jax.config import Blocks
from bridge_jax.models import modernbert
from tests import tiny, towers

LENGTH = 2 * modernbert.REACH + 30
KIND = towers.KINDS["modernbert"]
KIND = dataclasses.replace(
    KIND, section=dataclasses.replace(KIND.section, length=LENGTH, max_positions=LENGTH, vocab_size=300)
)
IDS = np.random.default_rng(0).integers(5, 300, (2, LENGTH))
MASK = np.arange(LENGTH) < np.array([[LENGTH], [100]])
BLOCKS = (
    Blocks(scan=False, remat="none", kernels="plain"),
    Blocks(scan=False, remat="full", kernels="plain"),
    Blocks(scan=True, remat="dots", kernels="plain"),
)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    model = KIND.torch_model()
    return model, KIND.params(model, tmp_path_factory.mktemp("modernbert"))


def run_from(params, start: int, stop: int, states, execution: Blocks = BLOCKS[0]) -> np.ndarray:
    tower = KIND.tower().clone(execution=execution)
    return np.asarray(tower.apply({"params": params}, states, MASK, start, stop, True, method="blocks"))


@pytest.mark.parametrize("execution", BLOCKS, ids=str)
def test_a_caption_longer_than_the_window_equals_torch(twins, execution):
    model, params = twins
    with torch.no_grad():
        mask = torch.from_numpy(MASK.astype(np.int64))
        theirs = model(input_ids=torch.from_numpy(IDS), attention_mask=mask, output_hidden_states=True)
    states = np.asarray(KIND.tower().apply({"params": params}, IDS, True, method="embed"))
    got = run_from(params, 0, KIND.section.depth, states, execution)
    got = np.asarray(KIND.tower().apply({"params": params}, got, method="finish"))
    assert np.abs(got - theirs.last_hidden_state.numpy())[MASK].max() < 1e-4


@pytest.mark.parametrize(("block", "is_global"), [(0, True), (1, False), (2, False), (3, True), (4, False)])
def test_only_every_third_block_sees_beyond_the_window(twins, block, is_global):
    flat = paths.flatten(twins[1])  # small queries and keys, so that no word's weight rounds to zero
    params = paths.unflatten({path: leaf * (0.1 if path.endswith("qkv/kernel") else 1) for path, leaf in flat.items()})
    states = np.random.default_rng(1).normal(size=(2, LENGTH, towers.WIDTH)).astype(np.float32)
    other = states.copy()
    other[0, -1] *= -1.0
    seen = (run_from(params, block, block + 1, states) != run_from(params, block, block + 1, other))[0].any(axis=1)
    near = np.arange(LENGTH) >= LENGTH - 1 - modernbert.REACH
    assert seen.tolist() == (near | is_global).tolist()


def test_global_and_local_blocks_differ_within_the_window(twins):
    """Their frequencies differ: a global block's parameters in a local block give other states."""
    _, params = twins
    states = np.random.default_rng(1).normal(size=(2, LENGTH, towers.WIDTH)).astype(np.float32)
    swapped = {**params, "block_01": params["block_03"]}
    near = np.s_[:, :10]
    in_place = KIND.tower().apply({"params": params}, states[near], MASK[near], 3, 4, True, method="blocks")
    elsewhere = KIND.tower().apply({"params": swapped}, states[near], MASK[near], 1, 2, True, method="blocks")
    assert np.abs(np.asarray(in_place) - np.asarray(elsewhere)).max() > 1e-3


def test_a_scan_compiles_one_block_for_both_kinds(twins):
    _, params = twins
    states = np.zeros((2, LENGTH, towers.WIDTH), np.float32)
    program = str(jax.make_jaxpr(lambda s: run_from_traced(params, s, BLOCKS[2]))(states))
    assert program.count("scan[") == 1  # all blocks but the first, which has no attention_norm


@pytest.mark.parametrize("execution", BLOCKS, ids=str)
def test_bridged_segments_keep_global_and_local_blocks(execution):
    """The twin runs one segment at a time. Of blocks 2 to 5, which follow interaction layers, one is global."""
    sections = dict(vision=dict(depth=6), text=dict(tower="modernbert", token_types=0, depth=6))
    cfg = tiny.config(bridge=dict(layers=5), blocks=dataclasses.asdict(execution), **sections)
    params, batch = tiny.params(cfg), tiny.batch(cfg)
    lower = tiny.lower(cfg, params, batch)

    def one_by_one(model):
        states = lower.image, lower.text
        for q in range(5):
            states, _ = model.segment(q, states, lower.text_mask, True)
        return model.text.finish(states[1])

    states = tiny.apply(cfg, params, lambda model: model.fused(lower).text_states)
    assert np.abs(states - tiny.apply(cfg, params, one_by_one)).max() < 1e-5


def run_from_traced(params, states, execution):
    tower = KIND.tower().clone(execution=execution)
    return tower.apply({"params": params}, states, MASK, 0, KIND.section.depth, True, method="blocks")


def test_dropout_acts_only_in_training(twins):
    kind = dataclasses.replace(KIND, section=dataclasses.replace(KIND.section, dropout=0.5))
    states = np.random.default_rng(1).normal(size=(2, LENGTH, towers.WIDTH)).astype(np.float32)

    def run(execution, key, deterministic=False):
        tower, rngs = kind.tower().clone(execution=execution), {"dropout": jax.random.key(key)}
        inputs = (states, MASK, 2, 3, deterministic)
        return np.asarray(tower.apply({"params": twins[1]}, *inputs, method="blocks", rngs=rngs))

    for execution in BLOCKS:
        kept = run(execution, 0, deterministic=True)
        np.testing.assert_allclose(kept, run_from(twins[1], 2, 3, states), atol=1e-5)
        assert np.abs(run(execution, 0) - kept).max() > 1e-2
        assert np.abs(run(execution, 0) - run(execution, 1)).max() > 1e-2
