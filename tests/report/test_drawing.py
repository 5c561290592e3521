"""bridge_jax/report/drawing.py: coordinates against numbers made by hand, and texts that mean harm."""

import math
import re

import pytest

from bridge_jax.report.drawing import Scale, curve, number, runs, table, ticks, waterfall


def test_a_scale_maps_its_ends_onto_its_pixels():
    scale = Scale(10, 20, 300, 100)
    assert [scale(value) for value in (10, 15, 20)] == [300, 200, 100]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 50, 100]),
        (0.05, 0.27, [0.0, 0.1, 0.2, 0.3]),
        (3, 3, [1, 2, 3, 4, 5]),
        (0, 0, [-0.5, 0, 0.5]),
        (-2e-4, 1e-3, [-0.0005, 0, 0.0005, 0.001]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert ticks(low, high) == expected


def test_a_curve_breaks_at_the_end_of_a_stage_and_where_it_is_not_finite():
    points = [(1, 1.0), (2, 2.0), (3, 3.0), (4, math.nan), (5, 5.0)]
    assert runs(points, [2, 9]) == [[(1, 1.0), (2, 2.0)], [(3, 3.0)], [(5, 5.0)]]


def test_a_curve_is_a_line_and_a_single_point_a_dot():
    drawn = curve([(0, 0.0), (5, 1.0), (10, 0.5)], [5], Scale(0, 10, 0, 100), Scale(0, 1, 50, 0), "a")
    assert drawn == '<polyline class="a" points="0.0,50.0 50.0,0.0"/><circle class="a" cx="100.0" cy="25.0" r="3"/>'


def test_every_bar_of_the_waterfall_begins_where_the_last_ended():
    drawn = waterfall({"start": 2.0, "train": 6.0, "save": 2.0})
    bars = [
        (float(x), float(width)) for x, width in re.findall(r'<rect class="bar" x="(\S+)" y="\d+" width="(\S+)"', drawn)
    ]
    assert bars == [(90.0, 32.0), (122.0, 96.0), (218.0, 32.0)]
    assert re.findall(r">([^<]+ %)<", drawn) == ["2 s, 20 %", "6 s, 60 %", "2 s, 20 %"]


def test_numbers_are_short():
    assert [number(value) for value in (0.123456, 1234.5, 123456.7, 1e-5, math.inf)] == [
        "0.1235", "1234", "123,457", "1e-05", "inf"
    ]  # fmt: skip


def test_texts_are_escaped():
    hostile = "<script>alert(1)</script>\"'&"
    for drawn in (table([hostile], [[hostile]], 1, hostile), waterfall({hostile: 1.0})):
        assert "<script" not in drawn
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;" in drawn
