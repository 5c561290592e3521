"""Show how recall depends on what a caption says: a colour, a number, a size, a relation."""

import numpy as np
from markupsafe import Markup

from bridge_jax.analysis import kinds
from bridge_jax.evals.scores import recall
from bridge_jax.evals.scores.rankings import Rankings
from bridge_jax.report.drawing import table
from bridge_jax.report.gallery import Gallery

SAMPLES, SEED = 1000, 0  # of the bootstrap


def section(found: Rankings, gallery: Gallery) -> Markup:
    """Return the table of text_to_image R@1 by the words of the captions."""
    lines = [gallery.captions(row) for row in range(len(found.image_ids))]
    captions = [lines[record][place] for record, place in zip(found.text_record, found.text_place, strict=True)]
    return Markup(
        '<p class="about">Text to image, R@1 in percent, with 95 % intervals over photos. A caption counts in each row '
        "whose words it has; the words are in bridge_jax/analysis/kinds.py.</p>{}"
    ).format(
        table(
            ("a caption says", "captions", "share", "unimodal R@1", "reranked R@1", "reranking adds"),
            rows(found, captions),
            1,
            "R@1 by what a caption says",
        )
    )


def rows(found: Rankings, captions: list[str]) -> list[tuple[str, ...]]:
    """Return the cells of each kind: its name, its captions, their share, and R@1 of both orders and their difference.

    A kind without captions has no scores.
    """
    ranked, cells = found.text_to_image, []
    for kind, of_kind in kinds.table(captions).items():
        count = int(of_kind.sum())
        scores = ("", "", "")
        if count:
            before, after, photos = (
                each[of_kind] for each in (ranked.unimodal_rank, ranked.rerank_rank, found.text_record)
            )  # fmt: skip
            gain = recall.paired_bootstrap(after, before, photos, SAMPLES, SEED)["r@1"]
            scores = (*(_recall(ranks, photos) for ranks in (before, after)),
                      f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]")  # fmt: skip
        cells.append((kind, str(count), f"{100 * count / max(1, len(captions)):.0f} %", *scores))
    return cells


def _recall(ranks: np.ndarray, photos: np.ndarray) -> str:
    low, high = recall.bootstrap(ranks, photos, SAMPLES, SEED)["r@1"]
    return f"{100 * np.mean(ranks == 1):.1f} [{low:.1f}, {high:.1f}]"
