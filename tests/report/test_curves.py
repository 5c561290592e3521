"""bridge_jax/report/curves.py: which metric is drawn where, and with which coordinates."""

import math
import re

from bridge_jax.report import curves
from bridge_jax.report.curves import Panel, thin
from bridge_jax.report.story import Stage, Story

STAGES = [Stage("one", 0, 60), Stage("two", 60, 100)]


def told(*entries):
    return Story("w", {}, {}, [{"step": 1 + i} | entry for i, entry in enumerate(entries)], STAGES, torn=False)


def test_every_metric_of_training_is_in_one_panel():
    names = ["loss", "itc/loss", "gate/layer_0/image", "gate/layer_0/text", "logit_scale", "learning_rate"]
    names += ["tau/layer_0/image_over_text", "entropy/layer_1/text_over_image", "pairs_per_second", "mine/new"]
    log = told(*({f"train/{name}": value for name in names} for value in (1.0, 2.0)))
    found = {
        title: [(panel.title, list(panel.series)) for panel in panels] for title, _, panels in curves.families(log)
    }
    assert found == {
        "Losses": [("itc/loss", ["loss"]), ("loss", ["loss"])],
        "Gates": [("gate/layer_0", ["image", "text"])],
        "Temperatures": [("logit_scale", ["logit scale"]), ("tau/layer_0", ["image over text"])],
        "Entropies": [("entropy/layer_1", ["text over image"])],
        "Optimiser": [("learning_rate", ["learning rate"])],
        "Speed": [("pairs_per_second", ["pairs per second"])],
        "Others": [("mine/new", ["new"])],
    }
    assert curves.constants(log) == []


def test_watched_recall_has_both_directions_in_a_panel_and_no_kinds():
    names = [f"eval/unimodal/{way}/{what}" for way in ("text_to_image", "image_to_text")
             for what in ("r@1", "r@1_low", "r@1_high", "r@5", "r@10", "median_rank", "relation/r@1")]  # fmt: skip
    ((title, _, panels),) = curves.families(told(dict.fromkeys([*names, "eval/unimodal/rsum", "eval/accuracy"], 1.0)))
    assert title == "Watched scores"
    assert [(panel.title, sorted(panel.series)) for panel in panels] == [
        ("eval/accuracy", ["accuracy"]),
        ("eval/unimodal/r@1", ["image to text", "text to image"]),
        ("eval/unimodal/rsum", ["rsum"]),
    ]


def test_other_metrics_that_never_change_have_no_panel():
    log = told({"train/itc/weight": 1.0, "train/x": 1.0, "train/loss": 3.0}, {"train/itc/weight": 1.0, "train/x": 2.0})
    assert curves.constants(log) == [("itc/weight", 1.0)]
    assert [title for title, _, _ in curves.families(log)] == ["Losses", "Others"]


def test_a_panel_has_the_coordinates_of_its_values():
    drawn = curves.draw(Panel("gate", {"image": [(20, 0.0), (40, 1.0), (100, 0.5)]}), STAGES, 0.0, 1.0)
    assert '<polyline class="a" points="97.6,128.0 151.2,18.0"/>' in drawn  # 44 + 268 * 20 / 100
    assert '<circle class="a" cx="312.0" cy="73.0" r="3"/>' in drawn
    assert '<rect class="band" x="204.8" y="18" width="107.2" height="110"/>' in drawn
    assert re.findall(r'<text x="(\S+)" y="143"[^>]*>(\d+)<', drawn) == [("204.8", "60"), ("312.0", "100")]


def test_the_table_of_a_panel_holds_the_values_that_the_hover_reads():
    drawn = curves.draw(Panel("gate", {"image": [(20, 0.25)], "text": [(20, 0.5), (100, math.nan)]}), STAGES, 0.0, 1.0)
    assert '<tr data-x="97.6"><th>20</th><td>0.25</td><td>0.5</td></tr>' in drawn
    assert '<tr data-x="312.0"><th>100</th><td></td><td>nan</td></tr>' in drawn


def test_a_long_series_keeps_its_ends_and_its_spikes():
    points = [(step, 1.0) for step in range(10_000)]
    points[1234], points[5678], points[777] = (1234, 9.0), (5678, -9.0), (777, math.nan)
    kept = thin(points)
    assert len(kept) <= 405
    assert {points[0], points[-1], points[1234], points[5678]} <= set(kept)
    assert any(math.isnan(value) for _, value in kept)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert thin(points[:400]) == points[:400]


def test_bounds_leave_out_what_is_not_finite():
    panels = [Panel("a", {"x": [(1, 2.0), (2, math.inf)]}), Panel("b", {"x": [(1, -1.0)]})]
    assert curves.bounds(panels) == (-1.0, 2.0)
    assert curves.bounds([Panel("a", {"x": [(1, math.nan)]})]) == (0.0, 1.0)
