"""Show two runs side by side: their recalls on the same photos with a paired test, their configs, their curves."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from bridge_jax.evals.scores import recall
from bridge_jax.evals.scores.rankings import Rankings
from bridge_jax.report import curves, page
from bridge_jax.report.curves import Panel
from bridge_jax.report.drawing import NONE, table
from bridge_jax.report.page import Section
from bridge_jax.report.story import ABSENT, Stage, Story, flat
from bridge_jax.workdir import rankings
from bridge_jax.workdir.rankings import About

NAMES = ("A", "B")
SAMPLES, SEED, ORDERS = 5000, 0, (("unimodal", "unimodal_rank"), ("rerank", "rerank_rank"))
SHOWN = r"eval/[^/]+/rsum|eval/[^/]+|train/(.*/)?loss|train/pairs_per_second"


class PairedTest(NamedTuple):
    """Recall in percent of both runs on the same queries, B - A with its 95 % interval over photos, and a two-sided p.

    p is twice the smaller share of the bootstrap's draws in which one run is not better than the other.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def paired(first: np.ndarray, second: np.ndarray, photos: np.ndarray) -> dict[str, PairedTest]:
    """Return r@1, r@5 and r@10 of two lists of ranks of the same queries; `photos` names the photo of each."""
    ahead = recall.paired_bootstrap(second, first, photos, SAMPLES, SEED)
    behind = recall.paired_bootstrap(first, second, photos, SAMPLES, SEED)
    mine, theirs = recall.summary(first), recall.summary(second)
    return {
        name: PairedTest(
            mine[name], theirs[name], found.value, found.low, found.high, min(1.0, 2 * min(found.p, other.p))
        )
        for (name, found), other in zip(ahead.items(), behind.values(), strict=True)
    }


def shared(first: str, second: str) -> list[tuple[About, Rankings, Rankings]]:
    """Return the rankings of both workdirs that are of the same photos and captions."""
    theirs = {about[:2] + about[3:]: found for about, found in rankings.read(Path(second))}
    mine = [(about, found) for about, found in rankings.read(Path(first)) if about[:2] + about[3:] in theirs]
    return [(about, found, theirs[about[:2] + about[3:]]) for about, found in mine]


def render(first: Story, second: Story, seen: Sequence[Section] = ()) -> str:
    """Return the HTML of the page of two runs, A and B. The sections `seen` show photos; they come after the test."""
    stories = tuple(zip(NAMES, (first, second), strict=True))
    lead = NONE.join(
        Markup("<p>{} is <code>{}</code>.</p>{}").format(name, story.workdir, page.lead(story))
        for name, story in stories
    )
    sections = [
        Section("test", "Both on the same photos", _tests(first, second)),
        *seen,
        Section("curves", "Their curves", _curves(first, second)),
        Section("differ", "How their configs differ", _configs(first, second)),
        *(Section(f"run-{name}", f"What was run: {name}", page.run(story, f" of {name}")) for name, story in stories),
        *(Section(f"scores-{name}", f"Scores: {name}", page.scores(story, f" of {name}")) for name, story in stories),
    ]
    return page.document(f"{first.workdir} and {second.workdir}", lead, sections)


def _tests(first: Story, second: Story) -> Markup:
    every = shared(first.workdir, second.workdir)
    if not every:
        return Markup(
            "<p>They left no rankings of the same photos, so there is no paired test. Score both on one split: "
            "<code>python -m tools.evaluate --workdir=WORKDIR --split=SPLIT --rerank</code></p>"
        )
    parts = [
        Markup(
            '<p class="about">Recall in percent. Both runs answer the same queries, so a query that is hard for both '
            "cancels: the difference is B - A, with its 95 % bootstrap interval over photos, and p is two-sided, not "
            "corrected for the number of rows. It says nothing of another seed.</p>"
        )
    ]
    for about, mine, theirs in every:
        cells = []
        for direction in recall.DIRECTIONS:
            one, other = mine.direction(direction), theirs.direction(direction)
            photos = mine.text_record if direction == "text_to_image" else np.arange(len(mine.image_ids))
            for order, field in ORDERS:
                found = paired(getattr(one, field), getattr(other, field), photos)
                cells += [_row(direction, order, name, test) for name, test in found.items()]
        head = ("direction", "order", "recall", "A", "B", "B - A [95 %]", "p")
        parts.append(table(head, cells, 3, f"{about.dataset}/{about.split}"))
    return NONE.join(parts)


def _row(direction: str, order: str, name: str, test: PairedTest) -> tuple[str, ...]:
    return (
        direction.replace("_", " "),
        order,
        name.upper(),
        f"{test.first:.1f}",
        f"{test.second:.1f}",
        f"{test.difference:+.1f} [{test.low:+.1f}, {test.high:+.1f}]",
        f"{test.p:.4f}" if test.p >= 2 / SAMPLES else f"< {2 / SAMPLES:g}",
    )


def _configs(first: Story, second: Story) -> Markup:
    mine, theirs = flat(first.config), flat(second.config)
    names = [*mine, *(name for name in theirs if name not in mine)]
    rows = [(name, *(str(side[name]) if name in side else ABSENT for side in (mine, theirs))) for name in names]
    changed = [row for row in rows if row[1] != row[2]]
    if not changed:
        return Markup("<p>They have the same config.</p>")
    return Markup('<div class="config">{}</div>').format(table(("key", *NAMES), changed, 3, "Keys that differ"))


def _curves(first: Story, second: Story) -> Markup:
    names = dict.fromkeys([*first.names("eval/"), *first.names("train/")])
    both = [name for name in names if re.fullmatch(SHOWN, name) and second.series(name)]
    stage = Stage("", 0, max(first.stages[-1].end, second.stages[-1].end))
    panels = [Panel(name, {"A": first.series(name), "B": second.series(name)}) for name in both]
    drawn = [curves.draw(panel, [stage], *curves.bounds([panel])) for panel in panels]
    return Markup('<p class="about">{}</p><div class="panels">{}</div>').format(
        "The watched scores, losses and speed that both logged, over steps.", NONE.join(drawn)
    )
