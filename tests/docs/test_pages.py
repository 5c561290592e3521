"""The pages: their links, anchors and paths exist, nothing that a page promises is missing, and the README is short."""

import re
from pathlib import Path

import pytest

from tests.architecture import ROOMS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted(ROOT.glob("docs/*.md")), ROOT / "launch/README.md")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def anchors(text):
    """Return the anchors that GitHub gives the headings; the second of one name ends with -1."""
    names, seen = [], {}
    for title in re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        names.append(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return names


def broken(page, text):
    """Return the relative links of a page that lead nowhere."""
    wrong = []
    for link in (first or second for first, second in LINK.findall(FENCE.sub("", text))):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            there = False
        elif anchor:
            there = anchor in anchors(text if target == page else target.read_text(encoding="utf-8"))
        else:
            there = True
        wrong += [] if there else [link]
    return wrong


def listed(text, heading):
    """Return the paths in code that the section under `heading` names."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"`((?:bridge_jax|configs|tools|launch|docs|tests)/[^` ]*)`", section)
    assert rows
    return set(rows)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_and_anchor_resolves(page):
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_seen():
    text = "# One `x`, two\n[a](#one-x-two) [b](#one) [c](docs/none.md) [d](docs/plan.md#none) [e](https://none)\n"
    assert broken(README, text) == ["#one", "docs/none.md", "docs/plan.md#none"]


def test_the_readme_is_short_and_shows_the_picture():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 170
    picture = re.search(r"<picture>(.*?)</picture>", text, re.DOTALL)[1]
    assert re.findall(r"docs/pictures/[\w-]+\.svg", picture) == [
        "docs/pictures/bridge-dark.svg",
        "docs/pictures/bridge-light.svg",
    ]
    assert len(re.search(r'alt="([^"]+)"', picture)[1].split()) > 20


def test_the_front_of_the_site_lists_every_page():
    tree = re.search(r"^```{toctree}\n(.*?)^```", (ROOT / "docs/index.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    names = [line for line in tree.splitlines() if line and not line.startswith(":")]
    pages = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert pages <= set(names)
    assert len(names) == len(set(names))


def test_an_error_that_names_a_page_names_one_that_is_there():
    """And a comment or a docstring, in the code and in the scripts."""
    files = [path for folder in ("bridge_jax", "configs", "tools", "launch") for path in ROOT.glob(f"{folder}/**/*.*")]
    for path in files:
        if path.suffix in (".py", ".sh", ".yaml"):
            for page in re.findall(r"\b(?:docs|launch)/\w+\.md\b", path.read_text(encoding="utf-8")):
                assert (ROOT / page).is_file(), f"{path} names {page}"


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "The tree"), ("docs/contributing.md", "Where things go")], ids=lambda name: name
)
def test_the_map_names_what_is_there(page, heading):
    paths = listed((ROOT / page).read_text(encoding="utf-8"), heading)
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    folders = {f"bridge_jax/{path.parent.name}/" for path in ROOT.glob("bridge_jax/*/__init__.py")}
    assert folders <= paths
    files = {f"bridge_jax/{path.name}" for path in ROOT.glob("bridge_jax/*.py")} - {"bridge_jax/__init__.py"}
    assert files <= paths


def test_the_floors_are_those_that_are_enforced():
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (`.*`) \|", text, re.MULTILINE)
    told = {path: int(floor) for floor, paths in rows for path in re.findall(r"`([^`]+)`", paths)}
    rooms = {pattern.removesuffix("*.py"): room.floor for room in ROOMS.values() for pattern in room.patterns}
    assert told == {path: floor for path, floor in rooms.items() if path in told}
    assert {path for path in rooms if path not in told} == {"bridge_jax/__init__.py", "bridge_jax/data/datasets/"}
