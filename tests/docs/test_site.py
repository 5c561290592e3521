"""The site builds without a warning, and every public module, function and class of the package has its entry."""

import ast
import html
import re
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.architecture import ROOMS
from tests.test_architecture import PACKAGE, SOURCES, room_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"(?<=python )-m sphinx .*? docs(?= docs/_build)")
SAYING = ("docs/conf.py", "docs/contributing.md", "pyproject.toml")
SECONDS = 60  # of a processor, so that tests which run at the same time do not count
PROGRAMS = ("configs", "tools")  # rooms of commands and their settings: their pages are written by hand


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site by the command that the pages give, elsewhere; return its folder."""
    folder = tmp_path_factory.mktemp("site")
    (line,) = {COMMAND.search((ROOT / name).read_text(encoding="utf-8"))[0] for name in SAYING}
    words = line.split()
    assert {"-W", "-n"} <= set(words)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, *words, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < SECONDS
    return folder


def entries(site):
    """Return kind and name of all that the inventory lists, which other projects link to."""
    raw = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(raw).decode().splitlines()
    return {tuple(re.match(r"(.+?) (\S+:\S+) ", line).group(2, 1)) for line in lines}


def _heading(page: str) -> str:
    """Return the first heading of a page after its title, else the title, without marks; empty for an included page."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return found[min(1, len(found) - 1)].replace("`", "") if found else ""


def test_every_page_is_there(site):
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if not (site / page).is_file()] == []
    sources = {page: (ROOT / "docs" / page).with_suffix(".md").read_text(encoding="utf-8") for page in pages}
    built = {page: html.unescape((site / page).read_text(encoding="utf-8")) for page in pages}
    # Sphinx writes pages of its own, such as search.html, over those of the same name.
    assert [page for page in pages if _heading(sources[page]) not in re.sub(r"<[^>]+>", "", built[page])] == []


def test_every_public_name_has_its_entry(site):
    listed, expected = entries(site), set()
    for path in PACKAGE:
        if room_of(path) in PROGRAMS or not SOURCES[path].strip():
            continue
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        expected.add(("py:module", module))
        kinds = {ast.FunctionDef: "py:function", ast.ClassDef: "py:class"}
        for node in ast.parse(SOURCES[path]).body:
            if type(node) in kinds and not node.name.startswith("_"):
                expected.add((kinds[type(node)], f"{module}.{node.name}"))
    assert len(expected) > 300
    assert expected - listed == set()
    assert {name for kind, name in listed if kind.startswith("py:") and re.search(r"(\.|^)_(?!_)", name)} == set()


def test_every_room_is_on_one_page():
    shown = re.findall(r"^```{rooms} (.*)$", "\n".join(p.read_text() for p in ROOT.glob("docs/api/*.md")), re.MULTILINE)
    assert sorted(" ".join(shown).split()) == sorted(set(ROOMS) - set(PROGRAMS))


def test_signatures_and_docstrings_are_as_written(site):
    """Shapes, links to our own types, the comment beside a field, an indented block, a citation and a session."""
    models = (site / "api/models.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", models))
    assert "images: UInt8[Array, 'B H W 3']" in text
    assert 'href="config.html#bridge_jax.config.keys.Config"' in models
    assert "lower     pixels, ids -> both towers' states where they first meet\nunimodal  lower" in text
    assert 'href="../method.html#' in models
    assert ">>> [bridged_blocks(p, 2, 6) for p in" in text
    assert "int32 [B]; captions of one photo share it" in (site / "api/glossary.html").read_text(encoding="utf-8")


def test_equations_and_both_pictures_are_there(site):
    assert r"\[Z_v = \mathrm{LN}(H_v)" in (site / "method.html").read_text(encoding="utf-8").replace("\n", "")
    page = (site / "architecture.html").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        assert re.search(rf'<img [^>]*class="[^"]*only-{theme}[^>]*src="_images/architecture-{theme}.svg"', page)
