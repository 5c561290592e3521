"""Draw the floors of the house and write the table of its rooms, from the table that the tests enforce.

    python docs/pictures/architecture.py

writes architecture-light.svg and architecture-dark.svg beside this file and the table in docs/architecture.md. Rooms
are those of tests/architecture.py, arrows the imports of the code; one that a chain of others implies is left out. Run
it after a file or an import between rooms has come or gone.
"""

import itertools
import re
import sys
import textwrap
from functools import cache
from pathlib import Path

from drawing import THEMES, Drawing

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.architecture import ROOMS  # noqa: E402
from tests.test_architecture import PACKAGE, SOURCES, imports, ours, room_of  # noqa: E402

PAGE = ROOT / "docs/architecture.md"
TABLE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)
READ = ("glossary", "models", "step", "losses", "run")  # the rooms of the page's reading order, in green

WIDTH, LEFT = 880, 56  # the numbers of the floors stand left of the rooms
BOX, HEIGHT, GAP, LANE, SPACE = 178, 88, 14, 14, 46  # of a room; between rooms; of a passing arrow; between floors
TITLE = "bridge_jax: rooms on floors, and every import goes down"


@cache
def below(room: str) -> frozenset[str]:
    """Return the rooms that the files of a room import from."""
    targets = [
        ours(module, SOURCES) for path in PACKAGE if room_of(path) == room for module, _ in imports(SOURCES[path])
    ]
    return frozenset(room_of(target) for target in targets if target) - {room}


@cache
def reached(room: str) -> frozenset[str]:
    """Return the rooms below a room, over any number of arrows."""
    return below(room).union(*map(reached, below(room)))


def arrows() -> list[tuple[str, str]]:
    """Return the imports between rooms, without those that a chain of others implies."""
    every = [(room, target) for room in ROOMS for target in below(room)]
    return sorted((a, b) for a, b in every if not any(b in reached(other) for other in below(a)))


def chains() -> list[list[str]]:
    """Return each arrow as the places that it passes: the room, a lane on every floor between, the room below."""
    return [
        [a, *(f"{a} {b} {floor}" for floor in range(ROOMS[a].floor - 1, ROOMS[b].floor, -1)), b] for a, b in arrows()
    ]


def centres(row: tuple[str, ...]) -> dict[str, float]:
    """Return the middle of each room and lane of a floor, laid side by side and centred."""
    widths = [BOX if place in ROOMS else LANE for place in row]
    x = LEFT + (WIDTH - LEFT - sum(widths) - GAP * (len(row) - 1)) / 2
    middles = {}
    for place, width in zip(row, widths, strict=True):
        middles[place] = x + width / 2
        x += width + GAP
    return middles


def layout() -> dict[str, tuple[float, int]]:
    """Return the middle and the floor of every room and lane, ordered so that arrows are short and seldom cross."""
    lanes = chains()
    floors = {place: room.floor for place, room in ROOMS.items()}
    floors |= {place: int(place.split()[-1]) for chain in lanes for place in chain[1:-1]}
    rows = [tuple(place for place in floors if floors[place] == floor) for floor in sorted(set(floors.values()))]
    x = {place: middle for row in rows for place, middle in centres(row).items()}
    ends = [pair for chain in lanes for pair in itertools.pairwise(chain)]

    def cost(row: tuple[str, ...]) -> float:
        at = x | centres(row)
        mine = [(floors[a], at[a], at[b]) for a, b in ends if a in row or b in row]
        crossed = sum(f == g and (a - c) * (b - d) < 0 for (f, a, b), (g, c, d) in itertools.combinations(mine, 2))
        return 300 * crossed + sum(abs(a - b) for _, a, b in mine)

    for _ in range(4):
        for i, row in enumerate(rows):
            rows[i] = min(itertools.permutations(row), key=cost)
            x |= centres(rows[i])
    return {place: (x[place], floors[place]) for place in floors}


@cache
def places() -> dict[str, tuple[float, float]]:
    """Return the middle and the upper edge of every room and lane."""
    highest = max(room.floor for room in ROOMS.values())
    return {place: (x, 10 + (highest - floor) * (HEIGHT + SPACE)) for place, (x, floor) in layout().items()}


def draw(theme: str) -> str:
    """Return the picture for a "light" or a "dark" page."""
    floors = sorted({room.floor for room in ROOMS.values()}, reverse=True)
    rooms = [f"floor {floor}: {', '.join(n for n, room in ROOMS.items() if room.floor == floor)}" for floor in floors]
    words = "; ".join(rooms) + ". Arrows: " + ", ".join(f"{a} to {b}" for a, b in arrows()) + "."
    drawing = Drawing(theme, WIDTH, 20 + len(floors) * (HEIGHT + SPACE) - SPACE, TITLE, words.capitalize())
    for chain in chains():
        _arrow(drawing, chain)
    for floor in floors:
        y = next(places()[name][1] for name, room in ROOMS.items() if room.floor == floor)
        drawing.words(LEFT / 2 - 4, y + HEIGHT / 2 + 8, str(floor), 24, "muted", bold=True)
    for name, room in ROOMS.items():
        x, y = places()[name]
        role = "bridge" if name in READ else "ink"
        edge, fill = ("bridge", "bridge_fill") if name in READ else ("panel_edge", "panel")
        drawing.box(x - BOX / 2, y, BOX, HEIGHT, edge, fill)
        meaning = textwrap.wrap(room.meaning.replace("->", "to"), 26)
        top = y + (HEIGHT - 22 - 16 * len(meaning)) / 2
        drawing.words(x, top + 17, name, 18, role, bold=True)
        for i, line in enumerate(meaning):
            drawing.words(x, top + 38 + 16 * i, line, 13, role)
    return drawing.svg()


def _arrow(drawing: Drawing, chain: list[str]) -> None:
    """Draw a curve from the lower edge of a room, through its lanes, to the upper edge of a room below."""
    starts, ends = _sides()
    path = f"M{starts[chain[0], chain[1]]:.0f} {places()[chain[0]][1] + HEIGHT:.0f}"
    for upper, lower in itertools.pairwise(chain):
        x = starts.get((upper, lower), places()[upper][0])
        to = ends.get((upper, lower), places()[lower][0])
        y = places()[lower][1]
        path += f"C{x:.0f} {y - SPACE / 2:.0f} {to:.0f} {y - SPACE / 2:.0f} {to:.0f} {y:.0f}"
        path += "" if lower in ROOMS else f"V{y + HEIGHT:.0f}"
    drawing.wire(path, "muted", line=1.5)


@cache
def _sides() -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Return where on its room's edge each arrow starts and ends: side by side, in the order of the other ends."""
    pairs = [pair for chain in chains() for pair in itertools.pairwise(chain)]
    starts, ends = {}, {}
    for name in ROOMS:
        for side, mine, other in ((starts, 0, 1), (ends, 1, 0)):
            touching = sorted((pair for pair in pairs if pair[mine] == name), key=lambda p: places()[p[other]][0])
            step = min(32, (BOX - 40) / max(1, len(touching) - 1))
            for i, pair in enumerate(touching):
                side[pair] = places()[name][0] + (i - (len(touching) - 1) / 2) * step
    return starts, ends


def table() -> str:
    """Return the table of the rooms as Markdown, the highest floor first."""
    lines = ["| floor | room | meaning | files |", "| --- | --- | --- | --- |"]
    for name, room in sorted(ROOMS.items(), key=lambda item: -item[1].floor):
        folders: dict[str, list[str]] = {}
        for path in PACKAGE:
            if room_of(path) == name and not path.endswith("/__init__.py"):
                folder, _, file = path.rpartition("/")
                folders.setdefault(folder, []).append(file.removesuffix(".py"))
        files = "; ".join(f"`{folder}/` {', '.join(names)}" for folder, names in folders.items())
        lines.append(f"| {room.floor} | **{name}** | {room.meaning.replace('->', 'to')} | {files} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with the table as it is now between its marks."""
    return TABLE.sub(lambda _: table(), text)


if __name__ == "__main__":
    for theme in THEMES:
        Path(__file__).with_name(f"architecture-{theme}.svg").write_text(draw(theme), encoding="utf-8", newline="\n")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
