"""Draw the charts of a report as SVG. Every text is escaped, because only Markup passes unescaped."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

NONE = Markup("")
MARKS = ("a", "b")  # the classes of the first and the second series, in style.py


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear map of values, low to high, onto pixels, first to last."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, rounded to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round numbers, 1, 2 or 5 times a power of ten apart, that enclose low to high.

    At most `most` of them lie strictly inside. Equal bounds are widened first.
    """
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * times for times in (1, 2, 5, 10, 20) if (high - low) / (power * times) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def number(value: float) -> str:
    """Return a value in at most four significant digits, without an exponent where it is short without."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def runs(points: Sequence[tuple[int, float]], borders: Sequence[int]) -> list[list[tuple[int, float]]]:
    """Return the pieces of a curve. It breaks after each border, and at values that are not finite."""
    pieces: list[list[tuple[int, float]]] = [[]]
    before = -math.inf
    for step, value in points:
        if any(before <= border < step for border in borders):
            pieces.append([])
        if math.isfinite(value):
            pieces[-1].append((step, value))
        else:
            pieces.append([])
        before = step
    return [piece for piece in pieces if piece]


def curve(points: Sequence[tuple[int, float]], borders: Sequence[int], x: Scale, y: Scale, mark: str) -> Markup:
    """Return the pieces of one series: a line, or a dot where a piece is a single point."""
    drawn = []
    for piece in runs(points, borders):
        places = [(x(step), y(value)) for step, value in piece]
        if len(places) == 1:
            drawn.append(Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>').format(mark, *places[0]))
        else:
            path = " ".join(f"{left},{top}" for left, top in places)
            drawn.append(Markup('<polyline class="{}" points="{}"/>').format(mark, path))
    return NONE.join(drawn)


def waterfall(secs: Mapping[str, float]) -> Markup:
    """Return a chart of seconds by activity, a row each. Every bar begins where the one above it ends."""
    total = sum(secs.values())
    x, rows, passed = Scale(0, total or 1, 90, 250), [], 0.0
    for row, (name, value) in enumerate(secs.items()):
        top, left = 8 + 22 * row, x(passed)
        width = max(1.0, round(x(passed + value) - left, 1))
        text = f"{number(round(value, 1))} s, {100 * value / (total or 1):.0f} %"
        rows.append(
            Markup(
                '<text x="84" y="{}" text-anchor="end">{}</text>'
                '<rect class="bar" x="{}" y="{}" width="{}" height="14"/><text x="258" y="{}">{}</text>'
            ).format(top + 11, name, left, top, width, top + 11, text)
        )
        passed += value
    label = ", ".join(f"{name} {value:.1f}" for name, value in secs.items())
    return Markup('<svg class="wide" viewBox="0 0 360 {}" role="img" aria-label="Seconds: {}">{}</svg>').format(
        12 + 22 * len(secs), label, NONE.join(rows)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int, caption: str) -> Markup:
    """Return a table that scrolls sideways where it does not fit. Columns from `numbers_from` on are right-aligned."""

    def cell(tag: str, index: int, text: str) -> Markup:
        kind = Markup(' class="number"') if index >= numbers_from else NONE
        return Markup("<{}{}>{}</{}>").format(Markup(tag), kind, text, Markup(tag))

    def line(texts: Sequence[str]) -> Markup:
        cells = [cell("td", index, text) for index, text in enumerate(texts)]
        return Markup("<tr>{}</tr>").format(NONE.join(cells))

    top = NONE.join(cell("th", index, text) for index, text in enumerate(head))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, caption, top, NONE.join(line(row) for row in rows))
