"""The page of a grid, as Markdown, from `judge.summary`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

COLUMNS = (
    "unimodal/text_to_image",
    "rerank/text_to_image",
    "unimodal/image_to_text",
    "rerank/image_to_text",
)


def markdown(found: Mapping[str, Any]) -> str:
    """Return the whole page: the rows of each split, their notes, the leak probe and the verdicts."""
    splits = list(dict.fromkeys(line["split"] for line in found["table"]))
    commits = ", ".join(commit[:8] or "unknown" for commit in found["commits"])
    parts = [
        f"# {found['grid']}: {found['experiment']}",
        f"{found['source']}. {len(found['cells'])} cells of {found['pairs']:,} pairs each, on "
        f"{', '.join(found['devices'])}. Commit {commits}, code {found['code']}, data {found['data']}.",
        *(_rows(found, split) for split in splits),
        _notes(found["notes"]),
        "## Leak probe",
        "Hits on unrelated pairs, and what chance gives (99.9 %), of every score and seed.",
        _probe(found["leak_probe"]),
        "## Verdicts",
        _verdicts(found["verdicts"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(found: Mapping[str, Any], split: str) -> str:
    """Return R@1 of each row; the first line is the spread over the method's seeds."""
    lines = [line for line in found["table"] if line["split"] == split]
    names = [name for name in COLUMNS if any(name in line["r@1"] for line in lines)]
    method = [line for line in lines if line["row"] == found["method"]]
    sd = method[0]["sd"] if method else {}
    spread = [f"{sd[name]:.2f}" if name in sd else "-" for name in names]
    cells = [(f"SD over seeds of {found['method']}", "", "", "", *spread)]
    for line in lines:
        values = [f"{line['r@1'][name]:.1f}" if name in line["r@1"] else "-" for name in names]
        about = (str(len(line["seeds"])), f"{line['parameters_beyond_towers']:,}", f"{line['minutes']:g}")
        cells.append((line["row"], *about, *values))
    head = ("row", "seeds", "parameters beyond the towers", "minutes", *(name.replace("/", " ") for name in names))
    return f"## R@1 on {split}\n\n{_table(head, cells)}"


def _notes(notes: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f"- {row}: {'; '.join(lines)}." for row, lines in notes.items() if lines)


def _probe(lines: Sequence[Mapping[str, Any]]) -> str:
    def shown(count: Mapping[str, int]) -> str:
        text = f"{count['hits']} ({count['low']} to {count['high']})"
        return text if count["low"] <= count["hits"] <= count["high"] else f"**{text}**"

    names = list(dict.fromkeys(name for line in lines for name in line if name not in ("row", "seed")))
    cells = [
        (line["row"], str(line["seed"]), *(shown(line[name]) if name in line else "-" for name in names))
        for line in lines
    ]
    return _table(("row", "seed", *names), cells)


def _verdicts(lines: Sequence[Mapping[str, Any]]) -> str:
    head = ("claim", "split", "score", "direction", "difference [95 %]", "p (Holm)", "verdict", "would be decided by")
    cells = [
        (
            line["claim"],
            line["split"],
            line["score"],
            line["direction"],
            f"{line['value']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}]",
            "-" if line["p_holm"] is None else f"{line['p_holm']:.3f}",
            line["verdict"],
            ", or ".join(_wanted(line["wanted"])) if line["wanted"] else "",
        )
        for line in lines
    ]
    return _table(head, cells)


def _wanted(wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield what would decide a claim."""
    if wanted["seeds"] is not None:
        yield f"{wanted['seeds']} seeds ({wanted['hours']:.1f} device hours more)"
    if wanted["photos"] is not None:
        yield f"{wanted['photos']:,} photos"
    if wanted["seeds"] is None and wanted["photos"] is None:
        yield "more seeds and more photos"


def _table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
