"""Equal results on every mesh, in real runs on many CPU devices; meshes and rules that cannot work."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.step import optim, sharding
from bridge_jax.step.params import param_shapes
from tests import meshes, tiny

ROOT = Path(__file__).resolve().parents[2]
MESHES = ("1x1x1", "8x1x1", "2x2x2", "2x2x2:kernel")  # data x fsdp x tensor


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Return mesh -> the results of three steps on it."""
    folder = tmp_path_factory.mktemp("meshes")
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "tests.meshes", str(folder), *MESHES]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"XLA_FLAGS": flags})
    return {
        name: dict(np.load(folder / f"{name}.npz")) for name in (*MESHES, "contrast", "ranked", "matched", "gathered")
    }


@pytest.mark.parametrize("mesh", MESHES[1:])
def test_one_answer_on_every_mesh(runs, mesh):
    one, other = runs["1x1x1"], runs[mesh]
    assert one.keys() == other.keys()
    for name, expected in one.items():
        np.testing.assert_allclose(other[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_runs_learn(runs):
    """Otherwise agreement would mean nothing: every loss is present, and parameters moved."""
    arrays = runs["1x1x1"]
    assert all(arrays[f"0|{loss}|loss"] > 0 for loss in meshes.LOSSES)
    start = tiny.params(meshes.config())["heads"]["itm"]["hidden"]["kernel"]
    assert np.abs(arrays["parameter|heads|itm|hidden|kernel"] - start).max() > 1e-5


def test_contrast_in_chunks_is_the_whole_over_devices(runs):
    arrays = runs["contrast"]
    for name in ("text", "image", "scale"):
        expected = arrays[f"1024|0|{name}"]
        assert np.linalg.norm(arrays[f"1024|100|{name}"] - expected) <= 1e-6 * np.linalg.norm(expected)


def test_contrast_in_chunks_holds_few_scores(runs):
    """32,768 pairs over 8 devices. A chunk of 1,024 columns needs more memory than one of 16 for its scores alone."""
    whole, some, few = (int(runs["contrast"][f"{columns}|bytes"]) for columns in (0, 1024, 16))
    assert some - few <= 64 * 2**20
    assert whole - some >= 2**30


def test_mining_in_groups_sends_no_hidden_states(runs):
    """Read from the compiled program; mining among all rows has to send them."""
    assert len(runs["gathered"]["8x1x1"])
    assert not list(runs["gathered"]["groups"])


def test_every_mesh_ranks_a_split_alike(runs):
    one, *others = (runs["ranked"][mesh] for mesh in sorted(runs["ranked"]))
    assert len(others) == 3
    assert (one >= 0).all()
    for other in others:
        np.testing.assert_array_equal(other, one)


def test_pairs_match_alike_over_devices(runs):
    one, other = (runs["matched"][mesh] for mesh in ("1x1x1", "2x2x2"))
    assert len(set(one.tolist())) == 8
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


DEVICES = jax.devices("cpu") * 8  # refusing a mesh needs no devices to run on


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(data=-1, fsdp=3), "data -1, fsdp 3, tensor 1: the sizes do not fit 8 devices"),
        (dict(data=2, fsdp=2), "make their product 8, or set one of them to -1"),
        (dict(data=-1, fsdp=-1), "at most one of them -1"),
        (dict(data=0), "expected positive sizes"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh(config.Mesh(**(dict(data=1, fsdp=1, tensor=1) | sizes)), DEVICES)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("heads/log_scale", ("fsdp",)), r"'heads/log_scale': \('fsdp',\) names 1 dimensions, the .* shape \(\)"),
        ((".*/hidden/kernel", ("fsdp", "fsdp")), "uses an axis twice"),
        ((".*/hidden/kernel", ("rows",)), r"expected a tuple of mesh axes \(data, fsdp, tensor, or '' for none\)"),
        ((".*/hidden/kernel", ("fsdp",)), r"4 devices of 'fsdp' do not divide 33, of the shape \(33, 16\)"),
        (("heads/hiden/.*", ()), "rule 'heads/hiden/.*' matches no parameter"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, message):
    cfg = tiny.config(sharding=(rule, (".*", ())))
    mesh = jax.sharding.AbstractMesh((1, 4, 1), sharding.AXES)
    with pytest.raises(ConfigError, match=message):
        sharding.layout(cfg, param_shapes(cfg), mesh)


def test_parameters_and_their_moments_lie_together():
    cfg = tiny.config()
    mesh = jax.sharding.AbstractMesh((1, 4, 2), sharding.AXES)
    params = param_shapes(cfg)
    flat = paths.flatten(params)
    moments = jax.eval_shape(optim.optimizer(cfg, cfg.stages["train"], paths.every(params)).init, flat)
    place = sharding.layout(cfg, params, mesh)
    placed, moved = paths.flatten(place(params)), place(moments)[1]
    assert placed["vision/block_00/mlp/up/kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert placed["vision/block_00/mlp/down/kernel"].spec == PartitionSpec("tensor", "fsdp")
    assert placed["vision/norm/scale"].spec == PartitionSpec()
    assert moved.mu == placed
    assert moved.nu == placed
    assert moved.count.spec == PartitionSpec()


def test_a_batch_that_does_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 4, 2), sharding.AXES)
    sharding.check_batch(16, mesh, "config.demo")
    with pytest.raises(ConfigError, match=r"config.demo is 12; it must be a multiple of 8 \(mesh: data 2 x fsdp 4\)"):
        sharding.check_batch(12, mesh, "config.demo")
