"""Show the recall of a run: both directions, the unimodal beside the reranked order, by kind of caption."""

import dataclasses
import re
from collections.abc import Sequence

from markupsafe import Markup

from bridge_jax.evals.scores.recall import DIRECTIONS
from bridge_jax.report.drawing import MARKS, NONE, Scale, number, table
from bridge_jax.report.story import Story

RANKS = ("r@1", "r@5", "r@10")
LEFT, RIGHT = 12, 348  # pixels of 0 and 100 percent
_SCORE = re.compile(
    rf"final/(?P<split>.+?)/(?P<score>unimodal|rerank[^/]*)/(?P<direction>{'|'.join(DIRECTIONS)})/"
    r"(?:(?P<kind>[^/]+)/)?(?P<what>r@1|r@5|r@10|median_rank)(?P<end>_low|_high)?"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Recall in percent of one order, direction and kind of caption; kind "" holds all captions.

    `values` has r@1, r@5, r@10 and median_rank, and NAME_low and NAME_high where there is an interval.
    """

    split: str
    score: str
    direction: str
    kind: str
    values: dict[str, float]


def rows(story: Story) -> list[Row]:
    """Return the final recall of every split, in the order of the log, each direction with its kinds after it."""
    found: dict[tuple[str, str, str, str], Row] = {}
    for name, value in finals(story).items():
        part = _SCORE.fullmatch(name)
        if part and not part["score"].startswith("rerank_gain"):
            key = (part["split"], part["score"], part["direction"], part["kind"] or "")
            found.setdefault(key, Row(*key, {})).values[part["what"] + (part["end"] or "")] = value
    splits = list(dict.fromkeys(row.split for row in found.values()))
    return sorted(
        (row for row in found.values() if "r@1" in row.values),
        key=lambda row: (splits.index(row.split), DIRECTIONS.index(row.direction), row.kind),
    )


def finals(story: Story) -> dict[str, float]:
    """Return the final/ metrics, in the order of the log; the newest of each."""
    return {name: value for entry in story.entries for name, value in entry.items() if name.startswith("final/")}


def others(story: Story) -> list[tuple[str, float]]:
    """Return the final scores that are no recall: accuracies, captions, sums."""
    return [
        (name.removeprefix("final/"), value)
        for name, value in finals(story).items()
        if not _SCORE.fullmatch(name) and "/rerank_gain/" not in name
    ]


def draw(split: str, shown: Sequence[Row]) -> Markup:
    """Return the chart of R@1 of a split: a line for each direction and kind, a dot and an interval for each order."""
    scores = list(dict.fromkeys(row.score for row in shown))[: len(MARKS)]
    lines = list(dict.fromkeys((row.direction, row.kind) for row in shown))
    x, drawn, said, top = Scale(0, 100, LEFT, RIGHT), [], [], 22
    for direction, kind in lines:
        name = _line(direction, kind)
        drawn.append(
            Markup('<text x="{}" y="{}"{}>{}</text>').format(
                LEFT + 8 * bool(kind), top, NONE if kind else Markup(' class="strong"'), kind or name
            )
        )
        for row in shown:
            if (row.direction, row.kind) == (direction, kind) and row.score in scores:
                order = scores.index(row.score)
                drawn.append(_dot(row, x, top + 9 + 8 * order, MARKS[order]))
                said.append(f"{name}, {row.score}: {_interval(row, 'r@1')}")
        top += 38
    axis = NONE.join(
        Markup(
            '<line class="ruler" x1="{}" x2="{}" y1="10" y2="{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>'
        ).format(x(share), x(share), top - 8, x(share), top + 6, share)
        for share in (0, 25, 50, 75, 100)
    )
    legend = NONE.join(
        Markup('<span class="key {}">{}</span>').format(MARKS[i], score) for i, score in enumerate(scores)
    )
    return Markup(
        '<figure><figcaption>{}</figcaption><svg class="recall" viewBox="0 0 360 {}" role="img" aria-label="R@1 in '
        'percent of {}. {}">{}{}</svg><p class="legend dots">{}</p></figure>'
    ).format(split, top + 12, split, "; ".join(said), axis, NONE.join(drawn), legend)


def _dot(row: Row, x: Scale, y: float, mark: str) -> Markup:
    """Return the dot of R@1, and its interval as a line where there is one. A later order is a diamond."""
    at, interval = x(row.values["r@1"]), NONE
    if "r@1_low" in row.values:
        interval = Markup('<line class="interval {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            mark, x(row.values["r@1_low"]), x(row.values["r@1_high"]), y, y
        )
    if mark == MARKS[0]:
        return interval + Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(mark, at, y)
    corners = f"{at - 4:.1f},{y} {at:.1f},{y - 4} {at + 4:.1f},{y} {at:.1f},{y + 4}"
    return interval + Markup('<polygon class="dot {}" points="{}"/>').format(mark, corners)


def full_table(split: str, shown: Sequence[Row]) -> Markup:
    """Return the table of a split's rows."""
    cells = [
        (
            *(_line(row.direction, row.kind), row.score),
            *(_interval(row, rank) for rank in RANKS),
            number(row.values["median_rank"]) if "median_rank" in row.values else "",
        )
        for row in shown
    ]
    head = ("direction", "order", "R@1 [95 %]", "R@5 [95 %]", "R@10 [95 %]", "median rank")
    return table(head, cells, 2, f"{split}: recall in percent")


def gains(story: Story) -> Markup:
    """Return a list of what reranking adds to R@1, with the interval of the difference; empty without reranking."""
    values, said = finals(story), []
    for name, value in values.items():
        part = re.fullmatch(r"final/(.+)/rerank_gain/([^/]+)/r@1", name)
        if part and {f"{name}_low", f"{name}_high"} <= values.keys():
            low, high = values[f"{name}_low"], values[f"{name}_high"]
            direction = part[2].replace("_", " ")
            said.append(
                Markup("<li>{}, {}: <b>{:+.1f}</b> points [{:+.1f}, {:+.1f}]</li>").format(
                    part[1], direction, value, low, high
                )
            )
    return Markup("<p>Reranking adds to R@1, with the 95 % interval of the difference:</p><ul>{}</ul>").format(
        NONE.join(said)
    ) if said else NONE  # fmt: skip


def _line(direction: str, kind: str) -> str:
    return direction.replace("_", " ") + (f", {kind}" if kind else "")


def _interval(row: Row, name: str) -> str:
    if name not in row.values:
        return ""
    text = f"{row.values[name]:.1f}"
    if f"{name}_low" in row.values:
        text += f" [{row.values[f'{name}_low']:.1f}, {row.values[f'{name}_high']:.1f}]"
    return text
