"""The page on the architecture is made from the code: its table, its picture's arrows, and the files to begin with."""

import re
import runpy
from pathlib import Path

import pytest

from tests.architecture import ROOMS
from tests.test_architecture import PACKAGE, room_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/pictures"))
    return runpy.run_path(str(ROOT / "docs/pictures/architecture.py"))


def test_the_table_is_what_the_script_writes(script):
    assert script["page"](PAGE) == PAGE, "run python docs/pictures/architecture.py"
    rows = re.findall(r"^\| (\d) \| \*\*(\w+)\*\* \|", PAGE, re.MULTILINE)
    assert {name: int(floor) for floor, name in rows} == {name: room.floor for name, room in ROOMS.items()}


def test_arrows_go_down_and_imply_every_import(script):
    """Followed as chains they reach what the imports reach, and without any one of them they do not."""

    def reach(arrows):
        rooms = {name: {b for a, b in arrows if a == name} for name in ROOMS}
        for name in sorted(ROOMS, key=lambda name: ROOMS[name].floor):
            rooms[name] |= {further for other in rooms[name] for further in rooms[other]}
        return rooms

    arrows = script["arrows"]()
    assert all(ROOMS[a].floor > ROOMS[b].floor for a, b in arrows)
    every = reach([(a, b) for a in ROOMS for b in script["below"](a)])
    assert every["main"] >= {"run", "losses", "models", "config"}
    assert reach(arrows) == every
    assert all(reach([other for other in arrows if other != arrow]) != every for arrow in arrows)


def test_no_two_rooms_of_the_picture_overlap(script):
    places = [script["places"]()[name] for name in ROOMS]
    assert len({y for _, y in places}) == len({room.floor for room in ROOMS.values()})
    for i, (x, y) in enumerate(places):
        assert all(y != other or abs(x - at) >= script["BOX"] for at, other in places[:i])


def test_the_green_rooms_are_those_to_begin_with(script):
    section = re.search(r"^## Where to begin\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
    files = re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)
    assert len(files) == 8
    assert set(files) <= set(PACKAGE)
    assert {room_of(path) for path in files} == set(script["READ"])
