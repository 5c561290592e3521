"""Rows, verdicts and page from the cells of a grid; which cells run, and which are refused.

The cells are made by hand: two splits of 60 photos with three captions each.
"""

import json

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from tests import tiny
from tools.ablation import cell, judge, page, run
from tools.ablation.rows import Row

PHOTOS = {"text_to_image": np.repeat(np.arange(60), 3), "image_to_text": np.arange(60)}


def rows(*names):
    return [Row(name, None, tiny.config(), 1000 + len(name), (f"note of {name}",)) for name in names]


def cells(*names, seeds=(0, 1, 2)):
    return [cell.Cell(row, seed, row.cfg, f"{row.name}{seed}") for seed in seeds for row in rows(*names)]


def record(each, shares, **changes):
    """Return a cell in which each score finds its share of the queries."""
    draw = np.random.default_rng([*map(ord, each.name)])
    ranks = {
        f"{score}/{direction}": np.where(draw.random(len(photos)) < share, 1, 2)
        for score, share in shares.items()
        for direction, photos in PHOTOS.items()
    }
    split = {
        "photos": 60,
        "photo_of_query": {direction: photos.tolist() for direction, photos in PHOTOS.items()},
        "ranks": {name: each.tolist() for name, each in ranks.items()},
        "recalls": {name: {"r@1": 100.0 * float(np.mean(each == 1))} for name, each in ranks.items()},
    }
    seconds = {"train": 3000.0, "score": 600.0, "down": 9e9}
    made = dict(name=each.name, code="aa", commit="c" * 40, data="bb", device="1 x cpu", pairs=512, seconds=seconds)
    made |= dict(leak_probe={"unimodal": dict(hits=16, low=4, high=32)}, splits=dict(val=split, test=split))
    return made | changes


def write(out, each, shares, **changes):
    path = cell.path_of(out, each)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record(each, shares, **changes)))
    return path


@pytest.fixture
def every(tmp_path):
    """Three seeds of a rival without a bridge, of one with, and of a method whose bridge is far better than both."""
    every = cells("none", "rival", "method")
    reranked = dict(rival=dict(unimodal=0.5, rerank=0.05), method=dict(unimodal=0.5, rerank=0.98))
    shares = dict(none=dict(unimodal=0.5), **reranked)
    for each in every:
        write(tmp_path, each, shares[each.row.name])
    return every


def test_a_grid_is_judged(every, tmp_path):
    text = run.write(every, tmp_path, "design", "configs/tiny.py")
    found = json.loads((tmp_path / "design.json").read_text())
    assert (tmp_path / "design.md").read_text() == text
    assert len(found["verdicts"]) == 2 * 2 * 2 * 2  # rivals, splits, scores, directions
    for line in found["verdicts"]:
        assert line["seeds"] == [0, 1, 2]
        assert line["claim"] == f"method is better than {line['rival']}"
        decided = line["score"] == "final"  # of `none` that is the unimodal order
        assert line["verdict"] == ("confirmed" if decided else "undecided at 3 seeds"), line
        assert (line["wanted"] is None) == decided


def test_the_rows_of_the_page_are_the_cells_own_recalls(every, tmp_path):
    text = run.write(every, tmp_path, "design", "configs/tiny.py")
    values = [
        cell.read(cell.path_of(tmp_path, each))["splits"]["val"]["recalls"]["rerank/text_to_image"]["r@1"]
        for each in every
        if each.row.name == "method"
    ]
    spread, *lines = text.split("## R@1 on val\n")[1].splitlines()[3:7]
    assert spread.split(" | ")[5] == f"{np.std(values, ddof=1):.2f}"
    assert [line.split(" | ")[:4] for line in lines] == [
        [f"| {name}", "3", f"{1000 + len(name):,}", "60"] for name in ("none", "rival", "method")
    ]
    assert lines[2].split(" | ")[5] == f"{np.mean(values):.1f}"
    assert lines[0].split(" | ")[5] == "-"
    assert "- none: note of none." in text
    assert "9 cells of 512 pairs each, on 1 x cpu. Commit cccccccc, code aa, data bb." in text


def test_the_claim_is_refuted_where_the_rival_is_better(every, tmp_path):
    found = judge.verdicts(judge.gather(every, tmp_path), rows("method", "rival"))
    assert {line["claim"] for line in found} == {"rival is better than method"}
    assert {line["verdict"] for line in found if line["score"] == "final"} == {"refuted"}


def test_one_seed_decides_nothing_and_a_leak_is_marked(every, tmp_path):
    """Every claim says what it would take: two more seeds, of two rows, an hour each."""
    leak = dict(unimodal=dict(hits=16, low=4, high=32), published=dict(hits=1000, low=3, high=30))
    write(tmp_path, every[1], dict(unimodal=0.5, rerank=0.5), leak_probe=leak)
    gathered = judge.gather(every[:3], tmp_path)
    text = page.markdown(judge.summary("design", "configs/tiny.py", gathered, rows("none", "rival", "method")))
    assert "| rival | 0 | 16 (4 to 32) | **1000 (3 to 30)** |" in text
    assert text.count("| undecided at 1 seed | 3 seeds (4.0 device hours more) |") == 16
    assert "| SD over seeds of method |  |  |  | - | - | - | - |" in text


def test_the_first_seed_is_run_for_all_rows_and_the_others_for_two(tmp_path):
    """The nearest rival is the row with the best final recall of the first seed."""
    every, ran = cells("far", "near", "method", seeds=(5, 6)), []
    shares = dict(far=dict(unimodal=0.9, rerank=0.1), near=dict(unimodal=0.5), method=dict(unimodal=0.5, rerank=0.3))

    def start(index):
        ran.append(every[index].name)
        write(tmp_path, every[index], shares[every[index].row.name])
        return 0

    assert run.every_cell(every, tmp_path, start) == 0
    assert ran == ["far5", "near5", "method5", "near6", "method6"]
    assert run.every_cell(every, tmp_path, start) == 0
    assert len(ran) == 5


@pytest.mark.parametrize(("code", "ran"), [(2, [0]), (143, [0]), (3, [0, 1]), (137, [0, 1])])
def test_after_a_stop_or_a_users_error_no_other_cell_is_begun(tmp_path, code, ran):
    started = []

    def start(index):
        started.append(index)
        return code if index == 0 else 0

    assert run.every_cell(cells("rival", "method"), tmp_path, start) == code
    assert started == ran


@pytest.mark.parametrize(("key", "value"), [("code", "0123"), ("data", "4567"), ("pairs", 9)])
def test_cells_that_cannot_be_compared_are_refused(every, tmp_path, key, value):
    path = write(tmp_path, every[4], dict(unimodal=0.5), **{key: value})
    with pytest.raises(ConfigError) as error:
        run.write(every, tmp_path, "design", "configs/tiny.py")
    assert str(error.value).startswith(f"{cell.path_of(tmp_path, every[0])} and {path} differ in their ")
    assert f"{value}, commit cccccccc), so they cannot be compared: move one away" in str(error.value)
    assert not (tmp_path / "design.md").exists()
    assert len(list((tmp_path / "cells").iterdir())) == 9


def test_a_file_that_is_no_cell_is_refused(every, tmp_path):
    path = cell.path_of(tmp_path, every[0])
    for text, says in (("{", "Expecting property name"), ('{"name": "x"}', "it lacks code"), ("[]", "it lacks name")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"expected a cell of tools.ablate .{says}"):
            cell.read(path)
    cell.path_of(tmp_path, every[1]).rename(path)
    with pytest.raises(ConfigError, match="it is the cell rival0"):
        cell.read(path)
    with pytest.raises(ConfigError, match=r"no cell of --grid=leak is in .*: run the grid first"):
        run.write(every, tmp_path / "empty", "leak", "configs/tiny.py")
