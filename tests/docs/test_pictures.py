"""The pictures are what their scripts draw, and can be read."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPTS = ("architecture", "bridge")
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
PAGES = {"light": ["#ffffff"], "dark": ["#0d1117", "#131416"]}  # GitHub's and furo's backgrounds
SVG = "{http://www.w3.org/2000/svg}"
SHOWN_WIDTH, LEAST_SIZE, LEAST_CONTRAST = 880, 12, 4.5  # pixels, pixels, WCAG 2.1 level AA


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.fixture(params=PAGES)
def theme(request):
    return request.param


@pytest.fixture(params=SCRIPTS)
def file(request, theme):
    return PICTURES / f"{request.param}-{theme}.svg"


@pytest.fixture
def picture(file):
    return ElementTree.fromstring(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_draws_the_files_of_the_repository(monkeypatch, theme, script):
    monkeypatch.syspath_prepend(str(PICTURES))
    drawn = runpy.run_path(str(PICTURES / f"{script}.py"))["draw"](theme)
    assert drawn == (PICTURES / f"{script}-{theme}.svg").read_text(encoding="utf-8"), (
        f"run python docs/pictures/{script}.py"
    )


def test_every_picture_has_a_script():
    assert {path.stem for path in PICTURES.glob("*.svg")} == {f"{name}-{theme}" for name in SCRIPTS for theme in PAGES}


def test_a_screen_reader_has_a_title_and_a_description(picture):
    assert picture.get("role") == "img"
    named = picture.get("aria-labelledby").split()
    assert named == [picture.find(f"{SVG}{tag}").get("id") for tag in ("title", "desc")]
    assert all(picture.find(f"{SVG}{tag}").text.strip() for tag in ("title", "desc"))


def test_the_picture_needs_nothing_from_elsewhere(file, picture):
    assert {element.tag.removeprefix(SVG) for element in picture.iter()}.isdisjoint({"script", "image", "style", "use"})
    assert re.findall(r"https?://[^\"]*", file.read_text(encoding="utf-8")) == ["http://www.w3.org/2000/svg"]


def test_no_words_are_too_small(picture):
    _, _, width, _ = map(float, picture.get("viewBox").split())
    sizes = [float(element.get("font-size")) for element in picture.iter() if element.get("font-size")]
    assert len(sizes) >= len(list(picture.iter(f"{SVG}text"))) > 0
    assert min(sizes) * SHOWN_WIDTH / width >= LEAST_SIZE


def test_words_stand_out_from_the_page_and_from_every_box(theme, picture):
    """Any word on any box: stricter than need be, and no geometry is needed."""
    words = {element.get("fill") for element in picture.iter(f"{SVG}text")}
    boxes = {element.get("fill") for element in picture.iter(f"{SVG}rect")}
    low = {(a, b): contrast(a, b) for a in words for b in [*PAGES[theme], *boxes] if contrast(a, b) < LEAST_CONTRAST}
    assert not low


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
