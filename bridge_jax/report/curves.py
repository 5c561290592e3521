"""Draw the metrics of training over steps, as small panels of one or two series."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

from markupsafe import Markup

from bridge_jax.report.drawing import MARKS, NONE, Scale, curve, number, ticks
from bridge_jax.report.story import Stage, Story

WIDTH, HEIGHT, MOST = 320, 150, 400  # pixels of a panel, and the points that a series of it keeps
LEFT, RIGHT, TOP, BOTTOM = 44, 312, 18, 128
FAMILIES = (  # title, pattern of the name after train/, what it is; the first that fits holds a metric
    ("Watched scores", r"eval/.*", "Of the checkpoints on the way, on the split that chooses among them."),
    ("Losses", r"(.*/)?loss", "Means over the batch. loss is the weighted sum that is trained."),
    ("Gates", r"gate/.*", "How much of the other side each bridge layer lets in."),
    ("Temperatures", r"tau/.*|logit_scale", "tau divides the attention's scores, logit_scale multiplies the cosines."),
    ("Entropies", r"entropy/.*", "Of the attention over the other side; 1 is uniform, 0 is one token."),
    ("Optimiser", r"learning_rate|grad_norm", "The learning rate, and the norm of the gradient before it is clipped."),
    ("Speed", r"pairs_per_second|waiting_for_data", "Pairs a second, and the share of time spent waiting for data."),
    ("Others", r".*", "Every other metric of training that changes."),
)
LAST = FAMILIES[-1][0]
SIDES = r"/(image|text|image_over_text|text_over_image|image_to_text(?=/)|text_to_image(?=/))(/r@1)?$"  # in one panel
WATCHED = r"eval/(?!.*(_low|_high|/r@5|/r@10|/median_rank)$)[^/]+(/[^/]+){0,2}"  # no kinds of captions

Points = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart: its title, and the points of each series by its name."""

    title: str
    series: dict[str, Points]


def families(story: Story) -> list[tuple[str, str, list[Panel]]]:
    """Return title, explanation and panels of each family that the log has metrics of; see `constants`."""
    names = [name for name in story.names("eval/") if re.fullmatch(WATCHED, name)]
    names += [name.removeprefix("train/") for name in story.names("train/")]
    home = {name: next(title for title, form, _ in FAMILIES if re.fullmatch(form, name)) for name in names}
    found = []
    for title, _, about in FAMILIES:
        grouped: dict[str, dict[str, Points]] = {}
        for name in (name for name in names if home[name] == title):
            points = story.series(name if name.startswith("eval/") else f"train/{name}")
            if title == LAST and still(points):
                continue
            side = re.search(SIDES, name)
            key, label = (name[: side.start()] + (side[2] or ""), side[1]) if side else (name, name.rpartition("/")[2])
            grouped.setdefault(key, {})[label.replace("_", " ")] = points
        if grouped:
            found.append((title, about, [Panel(key, series) for key, series in grouped.items()]))
    return found


def still(points: Points) -> bool:
    """Return whether all values of a series are the same."""
    return len({value for _, value in points}) == 1


def constants(story: Story) -> list[tuple[str, float]]:
    """Return the metrics of the last family that never change, with their value; they need no panel."""
    named = [(name.removeprefix("train/"), story.series(name)) for name in story.names("train/")]
    known = [form for title, form, _ in FAMILIES if title != LAST]
    rest = [(name, points) for name, points in named if not any(re.fullmatch(form, name) for form in known)]
    return [(name, points[0][1]) for name, points in rest if still(points)]


def thin(points: Points, most: int = MOST) -> Points:
    """Return at most about `most` points: the first, the last, and the lowest and highest of each of most / 2 parts.

    So no spike is lost. Values that are not finite are kept, all of them.
    """
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept = {0, len(points) - 1} | {i for i, (_, value) in enumerate(points) if not math.isfinite(value)}
    for start in range(0, len(points), size):
        part = [i for i in range(start, min(start + size, len(points))) if math.isfinite(points[i][1])]
        if part:
            kept |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def bounds(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the lowest and the highest finite value of some panels; 0 and 1 where there is none."""
    values = [value for panel in panels for points in panel.series.values() for _, value in points]
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def draw(panel: Panel, stages: Sequence[Stage], low: float, high: float) -> Markup:
    """Return the figure of a panel: chart, legend, and the table of its values, which the hover reads."""
    marks = ticks(low, high)
    x, y = Scale(0, stages[-1].end, LEFT, RIGHT), Scale(marks[0], marks[-1], BOTTOM, TOP)
    series = {name: thin(points) for name, points in panel.series.items()}
    lines = NONE.join(
        curve(points, [stage.end for stage in stages], x, y, mark)
        for points, mark in zip(series.values(), itertools.cycle(MARKS), strict=False)
    )
    last = {name: number(points[-1][1]) for name, points in series.items()}
    label = f"{panel.title} over steps; last: " + ", ".join(f"{name} {value}" for name, value in last.items())
    svg = Markup(
        '<svg class="curve" viewBox="0 0 {} {}" tabindex="0" role="img" aria-label="{}">{}{}{}'
        '<line class="cursor" x1="0" x2="0" y1="{}" y2="{}"/></svg>'
    ).format(WIDTH, HEIGHT, label, _bands(stages, x), _rulers(marks, y), lines, TOP, BOTTOM)
    said = [
        Markup('<span class="key {}">{} <b>{}</b></span>').format(mark, name, value)
        for (name, value), mark in zip(last.items(), itertools.cycle(MARKS), strict=False)
    ]
    return Markup(
        '<figure><figcaption>{}</figcaption>{}<p class="legend">{}</p><output></output>'
        '<details><summary>Values<span class="unseen"> of {}</span></summary>{}</details></figure>'
    ).format(panel.title, svg, NONE.join(said), panel.title, _values(series, x))


def _bands(stages: Sequence[Stage], x: Scale) -> Markup:
    """Return the stages: every second shaded; named and its end marked where there is room. The last end always is."""
    drawn, marked, end = [], -math.inf, x(stages[-1].end)
    for index, stage in enumerate(stages):
        left, right = x(stage.start), x(stage.end)
        if index % 2:
            drawn.append(
                Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>').format(
                    left, TOP, round(right - left, 1), BOTTOM - TOP
                )
            )
        if right - left > 7 * len(stage.name):
            drawn.append(Markup('<text x="{}" y="12">{}</text>').format(left + 2, stage.name))
        if stage is stages[-1] or min(right - marked, end - right) > 30:
            marked = right
            drawn.append(Markup('<text x="{}" y="143" text-anchor="end">{}</text>').format(right, stage.end))
    return NONE.join(drawn)


def _rulers(marks: Sequence[float], y: Scale) -> Markup:
    return NONE.join(
        Markup('<line class="ruler" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>')
        .format(LEFT, RIGHT, y(mark), y(mark), LEFT - 4, y(mark) + 3.5, number(mark))
        for mark in marks
    )  # fmt: skip


def _values(series: dict[str, Points], x: Scale) -> Markup:
    """Return the table of a panel, a row a step; a row knows its place on the chart."""
    at = {name: dict(points) for name, points in series.items()}
    steps = sorted({step for points in at.values() for step in points})
    head = NONE.join(Markup("<th>{}</th>").format(name) for name in ("step", *at))
    rows = [
        Markup('<tr data-x="{}"><th>{}</th>{}</tr>').format(
            x(step),
            step,
            NONE.join(
                Markup("<td>{}</td>").format(number(points[step]) if step in points else "") for points in at.values()
            ),
        )
        for step in steps
    ]
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, NONE.join(rows))
