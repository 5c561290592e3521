"""Show the queries that only one of two runs finds: its answer, and the wrong one of the other."""

import numpy as np
from markupsafe import Markup

from bridge_jax.analysis import examples
from bridge_jax.evals.scores.rankings import Rankings
from bridge_jax.evals.scores.recall import DIRECTIONS
from bridge_jax.report.compare import NAMES
from bridge_jax.report.drawing import NONE
from bridge_jax.report.examples import EACH, answers, asked, drawn
from bridge_jax.report.gallery import Gallery

Two = tuple[Rankings, Rankings]  # of the same photos and captions, by A and by B


def section(two: Two, gallery: Gallery) -> Markup:
    """Return the lists of both directions and both runs. A list that has no query says so."""
    parts = [
        Markup(
            '<p class="about">A query is found where its own photo or caption has rank 1 after reranking. The worst '
            "rank of the other run comes first; a list has one query of a photo.</p>"
        )
    ]
    for direction in DIRECTIONS:
        groups = two[0].text_record if direction == "text_to_image" else np.arange(len(two[0].image_ids))
        parts.append(Markup("<h3>{}</h3>").format(direction.replace("_", " ").capitalize()))
        for finds in (0, 1):
            mine, other = (two[run].direction(direction).rerank_rank for run in (finds, 1 - finds))
            rows = examples.found_by_one(mine, other, groups, EACH)
            shown = [show(two, gallery, direction, row, finds) for row in rows]
            count = int(np.count_nonzero((mine == 1) & (other > 1)))
            parts.append(
                Markup('<h4>Only {} finds: {} of {}</h4><div class="queries">{}</div>').format(
                    NAMES[finds], count, len(mine), NONE.join(shown)
                )
            )
    return NONE.join(parts)


def show(two: Two, gallery: Gallery, direction: str, row: int, finds: int) -> Markup:
    """Return a query with the first answer of the run that finds it, and of the other."""
    figures = []
    for run in (finds, 1 - finds):
        ranked = two[run].direction(direction)
        candidate = int(ranked.candidates[row, dict(answers(ranked, row, two[run].weight))["first reranked"]])
        figures.append(
            Markup("<figure{}>{}<figcaption>First of {}</figcaption></figure>").format(
                Markup(' class="true"') if run == finds else NONE,
                drawn(two[run], gallery, direction, candidate),
                NAMES[run],
            )
        )
    rank = two[1 - finds].direction(direction).rerank_rank[row]
    return Markup(
        '<article class="example">{}<p class="ranks">rank 1 by {}, {} by {}</p><div class="answers">{}</div></article>'
    ).format(
        asked(two[0], gallery, direction, row), NAMES[finds], rank, NAMES[1 - finds], NONE.join(figures)
    )  # fmt: skip
