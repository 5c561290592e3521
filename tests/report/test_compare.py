"""bridge_jax/report/compare.py: the paired test against draws by hand, and the page of two runs."""

import dataclasses
import re

import numpy as np
import pytest

from bridge_jax.report import compare, write
from bridge_jax.workdir import rankings
from tests.report import made
from tests.report.test_page import Tags, assert_it_loads_nothing

PHOTOS = np.repeat(np.arange(40), 2)


def test_equal_runs_do_not_differ():
    ranks = np.random.default_rng(0).integers(1, 12, len(PHOTOS))
    for test in compare.paired(ranks, ranks, PHOTOS).values():
        assert (test.difference, test.low, test.high, test.p) == (0, 0, 0, 1)
        assert test.first == test.second


def test_a_better_run_is_told_and_a_little_better_one_is_not():
    first = np.full(80, 3)
    better = np.where(PHOTOS % 2 == 0, 1, 3)
    test = compare.paired(first, better, PHOTOS)["r@1"]
    assert (test.first, test.second, test.difference) == (0, 50, 50)
    assert 30 < test.low < 50 < test.high < 70
    assert test.p <= 2 / compare.SAMPLES
    mixed = np.where(PHOTOS < 3, 1, first)
    back = np.where(PHOTOS > 37, 1, first)
    test = compare.paired(mixed, back, PHOTOS)["r@1"]
    assert test.low < 0 < test.high
    assert test.p > 0.2


def test_p_is_the_same_the_other_way_round_and_the_interval_turns():
    draw = np.random.default_rng(1)
    first, second = draw.integers(1, 4, 80), draw.integers(1, 4, 80)
    one, other = compare.paired(first, second, PHOTOS)["r@1"], compare.paired(second, first, PHOTOS)["r@1"]
    assert one.p == other.p
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two runs on the same photos; the second gets every query right."""
    folder, found = tmp_path_factory.mktemp("two"), made.rankings(images=12)
    first, second = (made.workdir(folder / name, seed=seed) for name, seed in (("one", 0), ("two", 7)))
    rankings.write(first, made.ABOUT, found)
    best = found.text_to_image._replace(rerank_rank=np.ones_like(found.text_to_image.rerank_rank))
    rankings.write(second, made.ABOUT._replace(step=4), found._replace(text_to_image=best))
    return first, second


def test_the_page_has_the_paired_test_the_curves_and_the_keys_that_differ(workdirs, tmp_path):
    write.write_two(*map(str, workdirs), tmp_path / "two.html")
    html = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert_it_loads_nothing(html)
    tags = Tags(html)
    assert tags.open == []
    labels = [attrs["aria-label"] for _, attrs in tags.seen if attrs.get("role") == "region"]
    assert len(labels) == len(set(labels))
    found = made.rankings(images=12).text_to_image
    before = 100 * np.mean(found.rerank_rank == 1)
    row = re.search(r"<td>text to image</td><td>rerank</td><td>R@1</td>(.*?)</tr>", html)[1]
    assert re.findall(r">([\d.]+)</td>", row)[:2] == [f"{before:.1f}", "100.0"]
    assert f">{100 - before:+.1f} [" in row
    assert '<tr><td>seed</td><td>0</td><td>7</td></tr>' in html  # fmt: skip
    assert "train/itc/loss over steps; last: A 0.2, B 0.2" in html


def test_runs_on_other_photos_have_no_test(workdirs, tmp_path):
    other = made.workdir(tmp_path / "other")
    rankings.write(other, made.ABOUT._replace(data="another"), made.rankings(images=12))
    assert compare.shared(str(workdirs[0]), str(other)) == []
    told = [write.story.read(str(each)) for each in (workdirs[0], other)]
    assert "They left no rankings of the same photos" in compare.render(*told)
    same = dataclasses.replace(told[1], config=told[0].config)
    assert "They have the same config" in compare.render(told[0], same)
