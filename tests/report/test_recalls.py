"""bridge_jax/report/recalls.py: rows, coordinates and intervals of final recall."""

import re

from bridge_jax.report import recalls
from bridge_jax.report.story import Story
from tests.report import made


def told(metrics):
    return Story("w", {}, {}, [{"step": 1} | metrics], [], torn=False)


def test_directions_come_with_their_kinds_after_them_and_both_orders():
    rows = recalls.rows(told(made.recall()))
    assert [(row.direction, row.kind, row.score, row.values["r@1"]) for row in rows] == [
        ("text_to_image", "", "unimodal", 40.0),
        ("text_to_image", "", "rerank", 60.0),
        ("text_to_image", "relation", "unimodal", 45.0),
        ("text_to_image", "relation", "rerank", 65.0),
        ("image_to_text", "", "unimodal", 40.0),
        ("image_to_text", "", "rerank", 60.0),
    ]
    assert [(row.values["r@1_low"], row.values["r@1_high"]) for row in rows if not row.kind][:2] == [(30, 50), (50, 70)]


def test_dots_and_intervals_lie_at_their_percentages():
    drawn = recalls.draw("val", recalls.rows(told(made.recall())))
    # 12 + 336 * share
    dots = re.findall(r'<circle class="dot a" cx="(\S+)"', drawn)
    assert dots == ["146.4", "163.2", "146.4"]
    lines = re.findall(r'<line class="interval (\w)" x1="(\S+)" x2="(\S+)"', drawn)
    assert lines == [("a", "112.8", "180.0"), ("b", "180.0", "247.2")] * 2
    assert "text to image, relation, rerank: 65.0;" in drawn


def test_the_newest_final_record_counts():
    story = Story("w", {}, {}, [{"step": 1} | made.recall(), {"step": 1, "final/val/unimodal/text_to_image/r@1": 70.0}],
                  [], torn=False)  # fmt: skip
    assert recalls.rows(story)[0].values["r@1"] == 70.0


def test_the_table_and_the_gain_have_intervals():
    story = told(made.recall())
    drawn = recalls.full_table("val", recalls.rows(story))
    assert "<td>text to image</td><td>rerank</td>" in drawn
    assert '>60.0 [50.0, 70.0]</td><td class="number">90.0</td>' in drawn
    assert "<td>text to image, relation</td><td>rerank</td>" in drawn
    assert "val, text to image: <b>+20.0</b> points [+5.0, +35.0]" in recalls.gains(story)
    assert recalls.gains(told({})) == ""


def test_scores_that_are_no_recall_are_listed_apart():
    story = told(made.recall() | {"final/val/vqa/accuracy": 61.5})
    assert recalls.others(story) == [
        ("val/unimodal/rsum", 500.0),
        ("val/rerank/rsum", 500.0),
        ("val/vqa/accuracy", 61.5),
    ]
