"""What the TPU's own compiler makes of the training step, for slices that are not here (libtpu needs none)."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bridge_jax.config import ConfigError, Mesh, parse
from bridge_jax.plan import chips, hlo, planner
from bridge_jax.step import sharding
from configs import coco

PAIRS = 8
pytestmark = pytest.mark.usefixtures("libtpu")


def shrunken(*, depth: int = 2):
    """configs/coco.py with small towers that meet after all of their blocks but one; of four, two segments are equal.

    The TPU's compiler takes twice as long for four blocks as for two.
    """
    config = coco.get_config()
    for tower in (config.vision, config.text):
        tower.update(depth=depth, width=128, heads=2, mlp_width=256)
    config.text.vocab_size = 512
    # An embed_width that is no batch's size: scores of pairs by pairs are told from embeddings by it.
    config.bridge.update(layers=depth - 1, shared_width=128, heads=2, embed_width=96)
    config.blocks.update(scan=True, remat="full")
    config.stages.align.top_blocks = depth // 2
    config.mining.group = PAIRS
    return config


@pytest.fixture(scope="module")
def command(tmp_path_factory, libtpu, least_effort) -> tuple[subprocess.CompletedProcess, dict[str, str]]:
    """The command, run as a user runs it: the align stage of the same pairs a chip on 16 chips and on 64."""
    folder = tmp_path_factory.mktemp("plan")
    flags = [f"--config.{path}={value}" for path, value in _flat(shrunken()) if _changed(path, value)]
    out = {kind: folder / f"plan.{kind}" for kind in ("json", "html", "markdown")}
    words = [sys.executable, "-m", "tools.plan", "--config=configs/coco.py", "--topology=v5e:4x4,v5e:8x8"]
    words += ["--stage=align", f"--pairs_per_chip={PAIRS}", *flags, *(f"--{kind}={path}" for kind, path in out.items())]
    env = os.environ | least_effort | {"PYTHONPATH": libtpu}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done, {kind: path.read_text() for kind, path in out.items()}


@pytest.fixture(scope="module")
def plans(command) -> list[planner.Plan]:
    """What the command wrote of both slices."""
    return [
        planner.Plan(
            **{name: value for name, value in plan.items() if name != "topology"}
            | dict(memory=planner.Memory(**plan["memory"]))
            | dict(traffic=tuple(planner.Traffic(**item) for item in plan["traffic"]))
            | dict(host_transfers=tuple(plan["host_transfers"]))
        )
        for plan in json.loads(command[1]["json"])
    ]


def plan_of(cfg, name, chip, devices):
    return planner.plan(cfg, cfg.stages[name], chip, devices)


def assert_no_states_travel(plan):
    """Only embeddings are gathered; no array of pairs x tokens x width, and none of batch x batch."""
    for item in plan.traffic:
        sizes = [int(n) for n in re.search(r"\[(.*)\]", item.greatest)[1].split(",") if n]
        if item.op != "all-reduce":  # of gradients, which are as large as the parameters
            assert not {197, 30} & set(sizes), item
            assert sizes.count(plan.batch_size) < 2, item
            assert item.axes == "data", item


def assert_fits_its_model(plan):
    """The state is donated, nothing goes to the host, and products are the model's and what is computed again."""
    assert plan.host_transfers == ()
    assert plan.memory.state - plan.memory.donated < 1.2 * PAIRS * 224 * 224 * 3  # the batch, which is its pictures
    assert 1.0 <= plan.compiled_flops / plan.model_flops < 1.5


def test_a_plan_fits_its_model(plans):
    for plan in plans:
        assert_fits_its_model(plan)


def test_without_remat_products_are_the_models_and_bytes_are_the_compilers(quickly, bytes_once, monkeypatch):
    """With everything open, so that no gradient is computed in vain. XLA's own sum of bytes has each loop turn once."""
    compiled, real = [], planner.memory_of
    monkeypatch.setattr(planner, "memory_of", lambda step: compiled.append(step) or real(step))
    config = shrunken()
    config.blocks.remat = "none"
    chip, devices = chips.slice_of("v5e:4x4")
    plan = plan_of(planner.with_pairs(parse(config), PAIRS, devices), "task", chip, devices)
    assert 0.99 <= plan.compiled_flops / plan.model_flops <= 1.1
    once = bytes_once(compiled[0].as_text())
    assert once == pytest.approx(compiled[0].cost_analysis()["bytes accessed"], rel=0.03)


def test_a_batch_in_parts_takes_less_memory_and_sends_no_states(plans, quickly):
    config = shrunken()
    config.stages.align.microbatches = 4
    chip, devices = chips.slice_of("v5e:4x4")
    parts = plan_of(planner.with_pairs(parse(config), 4 * PAIRS, devices), "align", chip, devices)
    assert parts.pairs == 4 * plans[0].pairs
    assert parts.memory.temporaries < 2 * plans[0].memory.temporaries
    assert 4 * plans[0].model_flops < parts.model_flops < 4.1 * plans[0].model_flops
    assert parts.compiled_flops < 4 * 1.5 * plans[0].model_flops
    assert_no_states_travel(parts)


def test_no_hidden_states_and_no_scores_cross_the_slice(plans):
    for plan in plans:
        assert_no_states_travel(plan)


def test_over_fsdp_parameters_travel_and_states_stay(quickly):
    """Of equal segments, which are one loop."""
    config = shrunken(depth=4)
    config.mesh.fsdp = 4
    chip, devices = chips.slice_of("v5e:4x4")
    plan = plan_of(planner.with_pairs(parse(config), PAIRS, devices), "stabilise", chip, devices)
    for item in plan.traffic:
        sizes = [int(n) for n in re.search(r"\[(.*)\]", item.greatest)[1].split(",") if n]
        assert not {197, 30} & set(sizes[1:]), item
    gathered = [item for item in plan.traffic if (item.op, item.axes) == ("all-gather", "fsdp")]
    assert gathered
    assert gathered[0].seconds > 0
    assert_fits_its_model(plan)


def product(options: dict[str, str] | None) -> hlo.Program:
    """Rows times a parameter over `fsdp` alone."""
    mesh = sharding.make_mesh(Mesh(data=1, fsdp=16, tensor=1), chips.slice_of("v5e:4x4")[1])
    states = jax.ShapeDtypeStruct((16 * PAIRS, 197, 256), jnp.bfloat16, sharding=sharding.over_rows(mesh))
    weights = jax.ShapeDtypeStruct((256, 1024), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    made = jax.jit(jnp.dot, out_shardings=sharding.over_rows(mesh), compiler_options=options)
    return hlo.read(made.lower(states, weights).compile().as_text())


def test_a_product_counts_once_whose_parts_pass_round_a_ring(quickly):
    """Over `fsdp` alone the compiler sends weights from chip to chip, in a loop that takes two of 16 parts a turn."""
    ring = product(None)
    assert ring.flops == 2 * PAIRS * 197 * 256 * 1024
    assert {one.op for one in ring.collectives} == {"collective-permute"}


def test_a_step_gathers_parameters_and_passes_none_round_a_ring(quickly):
    """Every turn of a ring reads and writes the sum. Of a whole ViT-H it moved 4.7 times the bytes."""
    mesh = sharding.make_mesh(Mesh(data=1, fsdp=16, tensor=1), chips.slice_of("v5e:4x4")[1])
    whole = product(sharding.compiler_options(mesh))
    assert {one.op for one in whole.collectives} == {"all-gather"}
    assert whole.hbm_bytes < product(None).hbm_bytes / 2
    assert sharding.compiler_options(sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))) is None
    config = shrunken()
    config.mesh.fsdp = 16
    chip, devices = chips.slice_of("v5e:4x4")
    step = plan_of(planner.with_pairs(parse(config), PAIRS, devices), "stabilise", chip, devices)
    assert "collective-permute" not in {item.op for item in step.traffic}


def test_weak_scaling(plans):
    """The same pairs a chip on four times the chips cost a chip the same (but for the B x B scores)."""
    few, many = plans
    assert many.chips == 4 * few.chips
    assert many.compiled_flops == pytest.approx(few.compiled_flops, rel=0.01)
    assert many.memory.peak == pytest.approx(few.memory.peak, rel=0.01)
    assert many.interconnect_secs > few.interconnect_secs > 0


def test_a_batch_that_cannot_fit_says_by_how_much_and_what_would(quickly):
    config = shrunken()
    config.stage_order = ("stabilise",)
    config.stages.stabilise.losses = ("itc",)
    chip, devices = chips.slice_of("v5e:2x2")
    cfg = planner.with_pairs(parse(config), 32_768, devices)
    with pytest.raises(
        ConfigError, match=r"32768 pairs a chip need \d+\.\d+ GiB of the 15\.75 .* too many; about \d+ "
    ):
        plan_of(cfg, "stabilise", chip, devices)


def test_the_most_pairs_that_fit_are_found(quickly):
    """On a chip with little memory, so that programs are small. Five of them come near enough."""
    config = shrunken()
    config.vision.depth = config.text.depth = 1
    config.bridge.update(design="none", layers=0)
    config.blocks.kernels = "plain"  # with the kernel, memory does not grow evenly with the pairs at so small a size
    config.mining.group = 0
    config.stage_order = ("stabilise",)
    config.stages.stabilise.losses = ("itc",)
    chip, devices = chips.slice_of("v5e:2x2")
    small = dataclasses.replace(chip, hbm_bytes=2**28)
    cfg = parse(config)
    best = next(planner.fit(cfg, cfg.stages["stabilise"], small, devices))
    assert (best.remat, best.pairs % 8) == ("none", 0)
    assert 0.7 * 2**28 < best.memory.peak <= 2**28


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e:4x5", "no such slice"),
        ("v5e", "expected CHIP:SIDES"),
        ("v5x:4x4", "nearest: 'v5p'"),
    ],
)
def test_a_slice_that_does_not_exist_is_one_line(topology, message):
    with pytest.raises(ConfigError, match=message):
        chips.slice_of(topology)


def test_v4_is_one_device_a_chip():
    assert len(chips.slice_of("v4:2x2x2")[1]) == 8


def test_the_command_prints_and_writes_the_plan(command, plans):
    done, written = command
    assert [(plan.chips, plan.pairs, plan.batch_size) for plan in plans] == [(16, PAIRS, 128), (64, PAIRS, 512)]
    devices = chips.slice_of("v5e:4x4")[1]
    asked = planner.with_pairs(parse(shrunken()), PAIRS, devices)  # the model that the flags were to make
    assert (
        plans[0].model_flops
        == planner.model_flops(asked, asked.stages["align"], sharding.make_mesh(asked.mesh, devices)) / 16
    )
    for text in (done.stdout, written["html"], written["markdown"]):
        for plan, topology in zip(plans, ("v5e:4x4", "v5e:8x8"), strict=True):
            assert topology in text
            assert f"{plan.memory.peak / chips.GIB:.2f}" in text
        assert "align" in text
    assert done.stdout.count("none to the host") == 2
    assert not re.search(r"\s0\.0+ (ms|h|chip-hours)\b", done.stdout), "small models have small numbers, not none"
    assert done.stderr == ""


def _flat(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _changed(path, value):
    return dict(_flat(coco.get_config())).get(path) != value
