"""Show queries of a split: those that reranking helped most and hurt most, and those that both orders get wrong."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from bridge_jax.analysis import examples
from bridge_jax.evals.scores.rankings import Ranked, Rankings
from bridge_jax.evals.scores.recall import DIRECTIONS
from bridge_jax.report.drawing import NONE
from bridge_jax.report.gallery import Gallery

EACH = 6  # queries of a list
LISTS = (
    ("Reranking helped most", examples.helped),
    ("Reranking hurt most", examples.hurt),
    ("Both orders get wrong", examples.both_wrong),
)


def section(found: Rankings, gallery: Gallery, where: str) -> Markup:
    """Return the lists of both directions. A list that has no query is named as empty; `where` names the split."""
    parts = [
        Markup(
            '<p class="about">Of {}. Rank 1 is right. Unimodal is the logit scale times the cosine of the two '
            "embeddings, bridge the match logit, which is above 0 for a match, and joined is bridge + {:.3g} x "
            "unimodal, by which the best {} of the unimodal order are reranked. A list has one query of a photo; of "
            "equal ones the first.</p>"
        ).format(where, found.weight, found.text_to_image.candidates.shape[1])
    ]
    for direction in DIRECTIONS:
        ranked = found.direction(direction)
        groups = found.text_record if direction == "text_to_image" else np.arange(len(found.image_ids))
        parts.append(Markup("<h3>{}</h3>").format(direction.replace("_", " ").capitalize()))
        for title, choose in LISTS:
            rows = choose(ranked.unimodal_rank, ranked.rerank_rank, groups, EACH)
            shown = [show(found, gallery, direction, row) for row in rows]
            body = Markup('<div class="queries">{}</div>').format(NONE.join(shown)) if shown else Markup("<p>None.</p>")
            parts.append(Markup("<h4>{}</h4>{}").format(title, body))
    return NONE.join(parts)


def show(found: Rankings, gallery: Gallery, direction: str, row: int) -> Markup:
    """Return a query with its answers: the true one, and the first of either order where that is another."""
    ranked = found.direction(direction)
    ranks = f"rank {ranked.unimodal_rank[row]} unimodal, {ranked.rerank_rank[row]} reranked"
    firsts = answers(ranked, row, found.weight)
    if direction == "text_to_image":
        true = int(found.text_record[row])
        shown = [(true, found.true_unimodal[row], found.true_fused[row], ["its own photo"])]
    else:
        own = np.flatnonzero(found.text_record == row)
        true = int(own[np.argmax(found.true_fused[own] + found.weight * found.true_unimodal[own])])
        shown = [(true, found.true_unimodal[true], found.true_fused[true], ["its own caption"])]
    for name, place in firsts:
        candidate = int(ranked.candidates[row, place])
        known = [entry for entry in shown if entry[0] == candidate]
        if known:
            known[0][3].append(name)
        else:
            shown.append((candidate, ranked.unimodal[row, place], ranked.fused[row, place], [name]))
    tag = Markup(
        "<figure{}>{}<figcaption>{}: unimodal {:.2f}, bridge {:.2f}, joined {:.2f}</figcaption></figure>"
    )  # fmt: skip
    items = [
        tag.format(Markup(' class="true"') if answer == true else NONE, drawn(found, gallery, direction, answer),
                   said(names), unimodal, fused, fused + found.weight * unimodal)
        for answer, unimodal, fused, names in shown
    ]  # fmt: skip
    return Markup('<article class="example">{}<p class="ranks">{}</p><div class="answers">{}</div></article>').format(
        asked(found, gallery, direction, row), ranks, NONE.join(items)
    )


def asked(found: Rankings, gallery: Gallery, direction: str, row: int) -> Markup:
    """Return a query, which is a caption or a photo."""
    if direction == "text_to_image":
        caption = gallery.captions(int(found.text_record[row]))[found.text_place[row]]
        return Markup('<p class="query">“{}”</p>').format(caption)
    return Markup('<div class="query">{}</div>').format(gallery.photo(row))


def answers(ranked: Ranked, row: int, weight: float) -> list[tuple[str, int]]:
    """Return the name of each order and the place of its first candidate."""
    joined = ranked.fused[row] + weight * ranked.unimodal[row]
    return [("first unimodal", 0), ("first reranked", int(np.argmax(joined)))]


def said(names: Sequence[str]) -> str:
    """Return names as the begin of a sentence."""
    text = ", ".join(names)
    return text[0].upper() + text[1:]


def drawn(found: Rankings, gallery: Gallery, direction: str, answer: int) -> Markup:
    """Return an answer, which is a photo or a caption."""
    if direction == "text_to_image":
        return gallery.photo(answer)
    caption = gallery.captions(int(found.text_record[answer]))[found.text_place[answer]]
    return Markup('<p class="caption">“{}”</p>').format(caption)
