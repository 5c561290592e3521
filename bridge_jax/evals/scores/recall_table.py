"""The metrics of retrieval as a table."""

from collections.abc import Iterator, Mapping

from bridge_jax.types import Table


def table(metrics: Mapping[str, float]) -> Table:
    """Return recall in both directions, unimodal and reranked, with 95 % intervals."""
    rows, lines = [], []
    scores = [score for score in ("unimodal", "rerank") if f"{score}/rsum" in metrics]
    unimodal = [name.removeprefix("unimodal/") for name in metrics if name.startswith("unimodal/")]
    directions = {name.rsplit("/", 1)[0] for name in unimodal}
    for direction in sorted(d for d in directions if d.startswith(("text_to_image", "image_to_text"))):
        for score in scores:
            prefix = f"{score}/{direction}"
            recalls = [f"{metrics[f'{prefix}/r@{k}']:.1f}" for k in (1, 5, 10)]
            if f"{prefix}/r@1_low" in metrics:
                recalls[0] += f" [{metrics[f'{prefix}/r@1_low']:.1f}, {metrics[f'{prefix}/r@1_high']:.1f}]"
            kind = direction.rpartition("/")  # a kind of caption stands under its direction
            label = f"  {kind[2]}" if kind[0] else direction
            rows.append((label, score, *recalls, f"{metrics[f'{prefix}/median_rank']:g}"))
    if "rerank/weight" in metrics:
        lines.append(f"rerank by match logit + {metrics['rerank/weight']:.3g} x logit scale x cosine")
    for direction in ("text_to_image", "image_to_text"):
        gain = f"rerank_gain/{direction}/r@1"
        if gain in metrics:
            lines.append(
                f"rerank gains {metrics[gain]:+.1f} points of {direction} R@1 "
                f"[{metrics[gain + '_low']:+.1f}, {metrics[gain + '_high']:+.1f}], p = {metrics[gain + '_p']:.3f}"
            )
    rows += _deeper(metrics)
    if "two_way/fused" in metrics:
        lines.append(
            f"true picture above the unimodal order's own hardest negatives: unimodal "
            f"{metrics['two_way/unimodal']:.1f} %, fused {metrics['two_way/fused']:.1f} %, "
            f"both {metrics['two_way/rerank']:.1f} %"
        )
    return Table(("direction", "score", "R@1 [95 %]", "R@5", "R@10", "median rank"), 2, rows, lines)


def _deeper(metrics: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of reranking more candidates (`more_top_k`), with the pairs that a query fuses."""
    depths = sorted({int(name.split("/")[0].partition("@")[2]) for name in metrics if name.startswith("rerank@")})
    for direction in ("image_to_text", "text_to_image") if depths else ():
        for depth in depths:
            prefix = f"rerank@{depth}/{direction}"
            recalls = (f"{metrics[f'{prefix}/r@{k}']:.1f}" for k in (1, 5, 10))
            yield direction, f"best {depth}", *recalls, f"{metrics[f'{prefix}/median_rank']:g}"
