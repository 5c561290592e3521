"""One screen that says what a config trains and costs, and programs that are kept."""

import dataclasses
import math

import pytest

from bridge_jax import paths
from bridge_jax.config import parse
from bridge_jax.plan import dry_run, planner
from bridge_jax.step import flops, sharding
from bridge_jax.step.params import param_shapes


@pytest.fixture(scope="module")
def cfg(tiny):
    return parse(tiny())


@pytest.fixture(scope="module")
def mesh(cfg):
    return sharding.make_mesh(cfg.mesh)


@pytest.fixture(scope="module")
def screen(cfg) -> list[str]:
    """The lines that the command prints where its output is no terminal."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(dry_run.Console, "print", printing(lines, dry_run.Console.print))
        dry_run.report(cfg)
    return lines


def printing(lines, real):
    """Return a print that keeps the lines it is given, as they are drawn."""

    def keep(console, *values, **options):
        with console.capture() as drawn:
            real(console, *values, **options)
        lines.extend(drawn.get().removesuffix("\n").split("\n"))

    return keep


def sizes(cfg) -> dict[str, int]:
    return {path: math.prod(leaf.shape) for path, leaf in paths.flatten(param_shapes(cfg)).items()}


def test_it_is_one_screen(screen):
    assert 24 <= len(screen) <= 40
    assert max(map(len, screen)) <= dry_run.COLUMNS == 100


def test_every_stage_has_a_line_a_batch_and_a_cost(screen, cfg):
    stages = [line for line in screen if line.startswith("stage ")]
    assert [line.partition(": trains ")[0] for line in stages] == [f"stage {name}" for name in cfg.stage_order]
    text = "\n".join(screen)
    assert text.count("  batch  8 pairs in 1 part: ") == text.count(" GFLOP a step, peak memory ") == len(stages)
    assert text.count("images: uint8[8, 32, 32, 3]") == 2  # a line never ends inside a field
    assert f"tools.show_params with the same --config lists all {len(sizes(cfg))} arrays." in screen[-1]


def test_parts_add_up_to_all_parameters(cfg):
    counts, every = dry_run.parts(cfg), sizes(cfg)
    assert list(counts) == ["vision", "text", "bridge", "heads"]
    assert sum(count.parameters for count in counts.values()) == sum(every.values())
    assert sum(count.arrays for count in counts.values()) == len(every)


@pytest.mark.parametrize("kind", ["tiny_caption", "tiny_vqa_generative"])
def test_a_decoder_and_learned_weights_are_parts(kind, request):
    config = request.getfixturevalue(kind)()
    config.loss_weighting = "learnable"
    cfg = parse(config)
    counts, every = dry_run.parts(cfg), sizes(cfg)
    assert list(counts) == list(dry_run.PARTS)
    assert counts["loss_weights"] == dry_run.Count(parameters=len(cfg.losses), arrays=len(cfg.losses))
    assert sum(count.parameters for count in counts.values()) == sum(every.values())


def test_trained_and_frozen_are_all(cfg):
    every = sizes(cfg)
    for name, stage in cfg.stages.items():
        trained, frozen = dry_run.trains(cfg, stage)
        assert trained.parameters + frozen.parameters == sum(every.values())
        assert trained.arrays + frozen.arrays == len(every)
        assert (frozen.arrays > 0) == (name == "align")


def test_the_table_shows_the_counts(screen, cfg):
    rows = {cells[0]: cells[1:] for line in screen if (cells := line.split())}
    for part, count in dry_run.parts(cfg).items():
        assert rows[part][:2] == [str(count.arrays), f"{count.parameters / 1e6:.3f}"]
    assert rows["frozen"] == ["-", f"{dry_run.trains(cfg, cfg.stages['align'])[1].parameters / 1e6:.3f}", "-"]


def test_costs_are_the_planners(screen, cfg, mesh):
    del screen  # it has compiled the programs
    for name in cfg.stage_order:
        cost = dry_run.cost_of(cfg, cfg.stages[name], mesh)
        step, *arguments = planner.step_of(cfg, cfg.stages[name], mesh)
        assert cost.flops == flops.flops_of(step, *arguments) > 0
        assert cost.peak_bytes == planner.memory_of(step.lower(*arguments).compile()).peak > 0
        assert cost.kept


def test_a_program_that_was_read_says_so(cfg, mesh):
    cost = dry_run.cost_of(cfg, cfg.stages["align"], mesh)
    fresh = dataclasses.replace(cost, kept=False, compile_secs=61.24)
    assert dry_run._lines(cfg.stages["align"], fresh, "auto", 100)[-2].endswith("; compiled in 61.2 s")
    again = dataclasses.replace(cost, kept=True, compile_secs=0.5)
    assert dry_run._lines(cfg.stages["align"], again, "auto", 100)[-2].endswith("; compiled before, read in 0.5 s")


def test_it_says_how_attention_runs(screen, cfg, mesh):
    assert screen.count("  kernels none (config.blocks.kernels = 'auto')") == len(cfg.stage_order)
    kernel = dataclasses.replace(cfg, blocks=dataclasses.replace(cfg.blocks, kernels="interpret"))
    step, *arguments = planner.step_of(kernel, kernel.stages["align"], mesh)
    kernels = flops.kernels_in(step.trace(*arguments).jaxpr)
    assert kernels > 0
    cost = dataclasses.replace(dry_run.cost_of(cfg, cfg.stages["align"], mesh), kernels=kernels)
    shown = dry_run._lines(cfg.stages["align"], cost, "interpret", 100)[-1]
    assert shown == f"  kernels {kernels}, a loop counted once (config.blocks.kernels = 'interpret')"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "-"), (3, "<0.001"), (86_389_248, "86.389"), (1_234_567_890, "1,234.568")]
)
def test_counts_are_shown_in_millions(count, shown):
    assert dry_run._millions(count) == shown
