"""The rows of every grid: what the tables need, what is fair, and what is refused."""

import functools

import pytest

from bridge_jax.config import ConfigError, objectives, parse
from configs import flickr8k, shapes
from tools.ablation import cell
from tools.ablation.grids import GRIDS
from tools.ablation.rows import BUDGET, beyond_towers, changed, opens_lower, rows

ROWS = {
    "design": ["none", "pooled", "self_cross", "cross"],
    "placement": ["after", "early", "middle", "staggered", "top"],
    "losses": ["itc", "itc + itm", "itc + cycle", "all"],
    "layers": ["1 layer", "2 layers", "3 layers"],
    "leak": ["paper", "joint"],
    "mining": ["random of the batch", "the paper's band", "hardest of the batch", "the whole split"],
}


def pairs(cfg):
    return sum(stage.steps * stage.batch_size for stage in cfg.run_stages)


@functools.cache
def of(module, grid):
    return rows(module.get_config(), grid)


@pytest.mark.parametrize(("module", "grid"), [*((shapes, grid) for grid in GRIDS), (flickr8k, "design")])
def test_rows_are_there_and_fair(module, grid):
    found = of(module, grid)
    assert [row.name for row in found] == ROWS[grid]
    assert len({cell.name_of(row.cfg) for row in found}) == len(found)
    assert len({pairs(row.cfg) for row in found}) == 1
    for stage in found[0].cfg.stage_order:
        assert len({row.cfg.stages[stage].cached_crops for row in found}) == 1
        assert len({row.cfg.stages[stage].train for row in found}) == 1
        assert len({row.cfg.stages[stage].top_blocks for row in found}) == 1
    method = found[-1]
    for row in found:
        assert opens_lower(row.cfg) == []
        assert row.parameters == beyond_towers(row.cfg)
        told = any("another budget" in note for note in row.notes)
        assert told == (abs(row.parameters / method.parameters - 1) > BUDGET)


def test_the_designs_have_one_budget_and_losses_that_they_can_have():
    none, pooled, self_cross, cross = of(flickr8k, "design")
    for row in (pooled, self_cross):
        assert abs(row.parameters / cross.parameters - 1) < 0.01
    assert none.cfg.stages["align"].losses == ("itc",)
    assert none.cfg.stages["stabilise"].losses == ("itc",)
    assert not any(objectives.trains_fused(stage) for stage in none.cfg.run_stages)
    assert pooled.cfg.stages["align"].losses == ("itc", "fused_itc", "itm")
    assert cross.cfg.stages["align"].losses == ("itc", "token_itc", "fused_itc", "itm", "cycle")
    assert "token_itc" not in none.cfg.losses
    assert "align without token_itc, cycle" in pooled.notes
    assert "align reads pixels, not the cache" in cross.notes  # `none` opens a block below the bridge


def test_a_stage_of_fused_losses_alone_trains_a_row_without_a_bridge_on_as_many_pairs():
    none, *_ = of(shapes, "design")
    assert none.cfg.stages["align"].losses == ("itc",)
    assert "align with itc" in none.notes


def test_losses_are_left_out_of_the_stages_that_have_them():
    base = parse(flickr8k.get_config())
    every = {row: changes["stages.align.losses"] for row, changes in GRIDS["losses"].rows(base).items()}
    assert every == {
        "itc": ("itc", "token_itc", "fused_itc"),
        "itc + itm": ("itc", "token_itc", "fused_itc", "itm"),
        "itc + cycle": ("itc", "token_itc", "fused_itc", "cycle"),
        "all": ("itc", "token_itc", "fused_itc", "itm", "cycle"),
    }


def test_towers_without_room_for_three_layers_have_two():
    settings = shapes.get_config()
    for depth, counts in ((2, [1, 2]), (12, [2, 4, 6])):
        settings.vision.depth = settings.text.depth = depth
        found = GRIDS["layers"].rows(parse(settings))
        assert [changes["bridge.layers"] for changes in found.values()] == counts


@pytest.mark.parametrize(
    ("grid", "changes", "says"),
    [
        ("design", {"bridge.layers": 9}, "--grid=design: config.bridge.layers is 9"),
        ("losses", {"stage_order": ("stabilise",)}, "--grid=losses: no stage of stabilise has one of fused_itc, itm"),
        ("leak", {"stage_order": ("stabilise",)}, "--grid=leak: no stage of stabilise has the loss fused_itc"),
        ("mining", {"stage_order": ("stabilise",)}, "--grid=mining: no stage of stabilise fuses wrong pairs"),
        ("layers", {"text.depth": 1, "bridge.layers": 1}, "--grid=layers: the shorter tower has 1 block"),
        (
            "placement",
            {"losses.token_itc": {"weight": 1.0, "group": 0}, "stages.align.microbatches": 2},
            "--grid=placement: config.stages.align.microbatches",
        ),
    ],
)
def test_what_an_experiment_cannot_have_is_refused(grid, changes, says):
    settings = changed(shapes.get_config(), changes)
    if "losses.token_itc" in changes:
        settings.stages.align.losses = ("token_itc", *settings.stages.align.losses)
    with pytest.raises(ConfigError) as error:
        rows(settings, grid)
    assert str(error.value).startswith(says)


def test_rows_that_are_alike_are_refused():
    every = of(shapes, "leak")
    with pytest.raises(ConfigError, match="'a' and 'b' are the same experiment"):
        cell.cells([every[0]._replace(name="a"), every[0]._replace(name="b")], [0])


def test_a_cell_is_named_by_what_it_computes():
    row = of(shapes, "leak")[-1]
    settings = shapes.get_config()
    settings.cache_dir, settings.data.data_dir, settings.checkpoint.every_steps = "/elsewhere", "/data", 7
    moved = rows(settings, "leak")[-1]
    assert cell.name_of(moved.cfg) == cell.name_of(row.cfg)
    settings.evals.retrieval.rerank_top_k = 9
    names = {each.name for each in cell.cells([row, rows(settings, "leak")[-1]], [0, 1])}
    assert len(names) == 4
    design = of(shapes, "design")[-1]
    assert cell.name_of(design.cfg) == cell.name_of(row.cfg)  # the method of two grids is one cell
