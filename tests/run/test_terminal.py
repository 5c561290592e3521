"""The terminal output: every number of the table is in its own row and column."""

import io

import pytest
from rich.console import Console

from bridge_jax.evals import asking, retrieval
from bridge_jax.run import terminal


@pytest.fixture
def shown(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "_console", Console(file=out, soft_wrap=True, highlight=False, width=80))
    return out


def metrics_of(score, shift):
    metrics = {f"{score}/rsum": 100.0}
    for direction, base in (("text_to_image", 10.0), ("image_to_text", 20.0), ("text_to_image/relation", 30.0)):
        numbers = {"r@1": base, "r@5": base + 1, "r@10": base + 2, "median_rank": base + 3.5}
        metrics |= {f"{score}/{direction}/{name}": value + shift for name, value in numbers.items()}
        if "/" not in direction:
            metrics |= {f"{score}/{direction}/r@1_low": base - 1 + shift, f"{score}/{direction}/r@1_high": base + 9}
    return metrics


def rows(shown):
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.getvalue().splitlines()
        if line[:1] == "│"
    ]


def test_the_table_has_every_direction_and_score(shown):
    terminal.table(
        retrieval.Evaluator.table(metrics_of("unimodal", 0.0) | metrics_of("rerank", 0.25)), "shapes/val, step 7", 61.4
    )
    assert rows(shown) == [
        ["image_to_text", "unimodal", "20.0 [19.0, 29.0]", "21.0", "22.0", "23.5"],
        ["image_to_text", "rerank", "20.2 [19.2, 29.0]", "21.2", "22.2", "23.75"],
        ["text_to_image", "unimodal", "10.0 [9.0, 19.0]", "11.0", "12.0", "13.5"],
        ["text_to_image", "rerank", "10.2 [9.2, 19.0]", "11.2", "12.2", "13.75"],
        ["relation", "unimodal", "30.0", "31.0", "32.0", "33.5"],
        ["relation", "rerank", "30.2", "31.2", "32.2", "33.75"],
    ]
    assert shown.getvalue().startswith("shapes/val, step 7\n")
    assert "evaluated in 61 s" in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_without_a_bridge_the_table_is_unimodal_alone(shown):
    terminal.table(retrieval.Evaluator.table(metrics_of("unimodal", 0.0)), "x", 1.0)
    assert {row[1] for row in rows(shown)} == {"unimodal"}
    assert "gains" not in shown.getvalue()


def test_the_gain_has_its_interval_and_p(shown):
    gain = {"rerank_gain/text_to_image/r@1": 1.5, "rerank_gain/text_to_image/r@1_low": -0.25,
            "rerank_gain/text_to_image/r@1_high": 3.0, "rerank_gain/text_to_image/r@1_p": 0.0625}  # fmt: skip
    terminal.table(retrieval.Evaluator.table(metrics_of("unimodal", 0.0) | gain), "x", 1.0)
    assert "rerank gains +1.5 points of text_to_image R@1 [-0.2, +3.0], p = 0.062\n" in shown.getvalue()


def test_square_brackets_of_a_path_are_no_markup(shown):
    terminal.say("runs/[bold]x[/bold]")
    assert shown.getvalue() == "runs/[bold]x[/bold]\n"


def test_nothing_but_lines_where_there_is_no_terminal(shown):
    with terminal.progress() as bar, terminal.task(bar, "evaluating") as report:
        meter = terminal.Meter(bar, "align", step=0, start=0, end=2, batch_size=4)
        report("pairs", 2, 9)
        for step in (1, 2):
            with meter.waiting():
                pass
            meter.advance(step, 0.5)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("align: step 2/2  loss 0.500  ")


def test_without_a_terminal_a_side_task_says_a_line_a_quarter(shown):
    with terminal.progress() as bar, terminal.task(bar, "caching lower states") as report:
        for done in range(1, 9):
            report("pictures", done, 8)
            report("unknown", done, 0)
        report("captions", 3, 3)
    lines = [f"caching lower states: pictures {done}/8" for done in (2, 4, 6, 8)]
    assert shown.getvalue().splitlines() == [*lines, "caching lower states: captions 3/3"]


def test_a_number_stands_with_its_interval_in_80_columns(shown):
    scores = {
        f"{score}/{kind}{end}": value
        for score in ("nlvr2", "shuffled", "majority")
        for kind in ("", "exactly one/")
        for end, value in (("accuracy", 52.0), ("accuracy_low", 45.1), ("accuracy_high", 58.9), ("statements", 200))
    }
    terminal.table(asking.table("nlvr2", "statements", "majority", scores), "nlvr/dev, step 50", 1.0)
    assert shown.getvalue().count("52.0 [45.1, 58.9]") == 4
    assert max(map(len, shown.getvalue().splitlines())) <= 80
