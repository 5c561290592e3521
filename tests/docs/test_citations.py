"""Every citation of the method's page resolves: what a docstring cites is in the repository.

A citation is `docs/method.md` and the number of a heading, or several: "5.1", "5.1, 5.2 and 5.4", "7.1 to 7.3". It may
run over the end of a line, also of a comment. Numbers are those of the headings, `## 1. The model`, `### 1.1 Towers`.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/method.md"
FOLDERS = ("bridge_jax", "configs", "tools", "tests")
GAP = r"[\s#]+"  # a space, or the end of a line and the beginning of the next comment
HEADING = re.compile(r"^(?:## (\d+)\.|### (\d+\.\d+)) \S", re.MULTILINE)
CITATION = re.compile(rf"docs/method\.md{GAP}(\d+(?:\.\d+)?(?:(?:,|{GAP}and|{GAP}to){GAP}\d+\.\d+)*)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
ELSEWHERE = re.compile(r"\b(?:METHOD|DESIGN)\b")  # pages that are not in the repository


def sources(root: Path) -> list[Path]:
    """Return the files that may cite the page."""
    code = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return [*code, *sorted((root / "docs").rglob("*.md")), root / "README.md"]


def headings(root: Path) -> list[str]:
    """Return the numbers of the page's headings, in order."""
    return [whole or part for whole, part in HEADING.findall((root / PAGE).read_text(encoding="utf-8"))]


def citations(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every cited number with its place, `file:line`."""
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        for match in CITATION.finditer(text):
            place = f"{path.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}"
            yield from ((place, number) for number in NUMBER.findall(match[1]))


def unresolved(root: Path) -> list[str]:
    """Return the citations of no heading."""
    known = set(headings(root))
    return [f"{place}: {PAGE} has no heading {number}" for place, number in citations(root) if number not in known]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings and the comments of a Python file, each with its first line, or the whole of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def cited_elsewhere(root: Path) -> list[str]:
    """Return the places whose prose cites a page that is not in the repository."""
    return [
        f"{path.relative_to(root)}:{line + text[: match.start()].count(chr(10))}: {match[0]} is not in the repository; "
        f"cite {PAGE} and a number"
        for path in sources(root)
        for line, text in prose(path)
        for match in ELSEWHERE.finditer(text)
    ]


def test_every_citation_resolves():
    assert list(citations(ROOT)), f"expected citations of {PAGE} in {', '.join(FOLDERS)}, found none"
    wrong = unresolved(ROOT)
    assert not wrong, "\n".join(wrong)


def test_nothing_cites_a_page_that_is_not_here():
    wrong = cited_elsewhere(ROOT)
    assert not wrong, "\n".join(wrong)


def test_the_page_numbers_its_headings_in_order():
    """1, 1.1, 1.2, 2, ...: no number twice and none left out, so that a citation points at exactly one thing."""
    chapter, part = 0, 0
    for number in headings(ROOT):
        chapter, part = (chapter, part + 1) if "." in number else (chapter + 1, 0)
        assert number == (f"{chapter}.{part}" if part else f"{chapter}")
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    assert len(headings(ROOT)) == sum(line.startswith(("## ", "### ")) for line in lines)


@pytest.fixture
def house(tmp_path):
    """Return a repository of one file of code and a page with the headings 1 and 1.1."""
    for folder in (*FOLDERS, "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / PAGE).write_text("# The method\n\n## 1. The model\n\n### 1.1 Towers\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("# {page} 1.1 and 1.2", ["a.py:1: {page} has no heading 1.2"]),
        ("# {page} 1.1, 1.3 to 1.4", ["a.py:1: {page} has no heading 1.3", "a.py:1: {page} has no heading 1.4"]),
        ('"""One.\n\nTwo ({page}\n9.9).\n"""', ["a.py:3: {page} has no heading 9.9"]),
        ("x = 1  # see {page}\n# 2.1.", ["a.py:1: {page} has no heading 2.1"]),
        ("# {page} 1.1, and {page} 1", []),
    ],
)
def test_a_wrong_citation_is_named(house, text, places):
    (house / "bridge_jax/a.py").write_text(text.format(page=PAGE), encoding="utf-8")
    assert unresolved(house) == ["bridge_jax/" + place.format(page=PAGE) for place in places]


def test_a_page_elsewhere_is_named(house):
    code = '"""One.\n\nSee METHOD section 5."""\nDESIGN = METHOD = 1  # a name is no citation, DESIGN section 2 is\n'
    (house / "tools/b.py").write_text(code, encoding="utf-8")
    assert cited_elsewhere(house) == [
        f"tools/b.py:3: METHOD is not in the repository; cite {PAGE} and a number",
        f"tools/b.py:4: DESIGN is not in the repository; cite {PAGE} and a number",
    ]
