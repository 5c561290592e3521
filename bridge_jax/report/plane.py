"""Draw the map of embeddings: photos and captions on UMAP's plane, and the gap between them in numbers."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from bridge_jax.report import embedding
from bridge_jax.report.drawing import NONE, table
from bridge_jax.report.embedding import Gap, Layout

SIDE, MARGIN = 320, 8  # pixels of a map
PAIRS = 200  # of which lines are drawn, evenly spread


def section(layouts: Mapping[str, Layout], missing: str = "") -> Markup:
    """Return a map of each model, and one of the first with shuffled pairs; and the table of their gaps.

    `missing` says why a model is not there.
    """
    (name, first), *others = layouts.items()
    order = embedding.shuffled(len(first.images))
    drawn = [(name, first, np.arange(len(order))), (f"{name}, pairs shuffled", first, order)]
    drawn += [(other, layout, np.arange(len(order))) for other, layout in others]
    figures = [draw(title, layout, pairs) for title, layout, pairs in drawn]
    gaps = {name: first.gap, f"{name}, pairs shuffled": first.shuffled}
    for other, layout in others:
        gaps |= {other: layout.gap, f"{other}, pairs shuffled": layout.shuffled}
    return Markup(
        '<p class="about">{} photos and their first captions, by their unimodal embeddings: near each other where the '
        "model finds them alike. Lines join {} of the pairs; short lines are pairs that agree. The plane of UMAP keeps "
        'neighbours, not distances: the table has the numbers.</p><div class="charts">{}</div><p>{}</p>{}'
    ).format(len(order), min(PAIRS, len(order)), NONE.join(figures), missing, numbers(gaps))


def draw(title: str, layout: Layout, pairs: np.ndarray) -> Markup:
    """Return one map. `pairs[i]` is the caption that is joined with photo i."""
    both = np.concatenate([layout.images, layout.texts])
    low, high = both.min(axis=0), both.max(axis=0)
    scale = (SIDE - 2 * MARGIN) / max(float((high - low).max()), 1e-9)
    corner = np.array([(SIDE - (high - low)[0] * scale) / 2, MARGIN])
    images, texts = (((side - low) * scale + corner).round(1) for side in (layout.images, layout.texts))
    height = round(float((high - low)[1]) * scale) + 2 * MARGIN
    chosen = np.unique(np.linspace(0, len(images) - 1, PAIRS).round().astype(int))
    lines = "".join(f"M{_at(images[i])}L{_at(texts[pairs[i]])}" for i in chosen)
    dots = [("".join(f"M{_at(place)}h0" for place in side), mark) for side, mark in ((images, "a"), (texts, "b"))]
    label = f"{title}: {len(images)} photos and as many captions on a plane; the table below has the gap in numbers"
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><path class="pairs" d="{}"/>{}</svg>').format(
        SIDE, height, label, lines,
        NONE.join(Markup('<path class="cloud {}" d="{}"/>').format(mark, path) for path, mark in dots),
    )  # fmt: skip
    return Markup(
        '<figure class="dots plane"><figcaption>{}</figcaption>{}<p class="legend"><span class="key a">photos</span>'
        '<span class="key b">captions</span></p></figure>'
    ).format(title, svg)


def numbers(gaps: Mapping[str, Gap]) -> Markup:
    """Return the table of the gaps."""
    cells = [
        (name, f"{each.centroid_distance:.3f}", f"{100 * each.separability:.1f} %", f"{each.alignment:.3f}",
         f"{each.uniformity_images:.2f}", f"{each.uniformity_texts:.2f}")
        for name, each in gaps.items()
    ]  # fmt: skip
    head = ("model", "centroid distance", "linear separability", "alignment", "uniformity, photos", "captions")
    return table(head, cells, 1, "The gap between photos and captions") + Markup(
        '<p class="about">Centroid distance: between the mean photo and the mean caption, 0 to 2. Linear separability: '
        "how often a linear classifier tells a photo from a caption that it has not seen; 50 % is chance. Alignment: "
        "mean squared distance of the two halves of a pair; less is better. Uniformity: log of the mean of "
        "exp(-2 d²) over pairs of one side; less is more evenly spread (Wang and Isola 2020).</p>"
    )


def _at(place: np.ndarray) -> str:
    return f"{place[0]:g} {place[1]:g}"
