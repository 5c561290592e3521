"""The whole page of a real checkpoint: what it holds, the files beside it, and the page in Chromium."""

import re
import sys
import types

import numpy as np
import pytest

from bridge_jax.report import points, write
from bridge_jax.run import origin
from tests import browsers
from tests.report.test_page import Tags, assert_it_loads_nothing

QUIET = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def page(workdir, cfg, params, tmp_path_factory):
    """The whole page, with a map of both models, whose plane is no UMAP: tests/docs runs that, which takes 20 s."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    asked = write.Asked(photos=2, points=12, parquet=str(out.with_suffix(".parquet")))
    flat = types.SimpleNamespace(fit_transform=lambda both: both[:, :2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=lambda **_: flat))
        write.write(str(workdir), out, asked, origin.initial, QUIET)
    return out


def test_the_whole_page_loads_nothing_and_nests(page):
    html = page.read_text(encoding="utf-8")
    assert_it_loads_nothing(html)
    tags = Tags(html)
    assert tags.open == []
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert {"queries", "words", "looks", "map"} <= set(ids)
    assert all(attrs["alt"] for tag, attrs in tags.seen if tag == "img")
    assert "before training, pairs shuffled" in html
    assert len(html) < 500_000


def test_the_points_are_kept_and_a_second_report_reads_them(page, workdir, monkeypatch):
    kept = page.with_suffix(".map.npz")
    content, drawn = kept.read_bytes(), re.findall('<path class="cloud.*?>', page.read_text(encoding="utf-8"))
    monkeypatch.setattr(points.embedding, "lay_out", lambda *_: pytest.fail("laid out again"))
    again = page.with_name("again.html")
    kept.rename(again.with_suffix(".map.npz"))
    write.write(str(workdir), again, write.Asked(photos=0, points=12), origin.initial, QUIET)
    assert again.with_suffix(".map.npz").read_bytes() == content
    assert re.findall('<path class="cloud.*?>', again.read_text(encoding="utf-8")) == drawn


def test_the_parquet_file_has_the_points_of_both_sides(page, gallery):
    from pyarrow import parquet

    table = parquet.read_table(page.with_suffix(".parquet")).to_pydict()
    assert list(table) == ["x", "y", "text", "image_id", "split", "kind"]
    assert table["kind"] == ["photo"] * 12 + ["caption"] * 12
    assert table["text"][:12] == table["text"][12:]
    assert table["image_id"][0] == gallery.image_id(0)
    assert np.isfinite([*table["x"], *table["y"]]).all()


@pytest.fixture(scope="module")
def browser():
    with browsers.started() as started:
        yield started


@pytest.fixture(params=["light", "dark"])
def opened(request, browser, page):
    """Return the page on a phone; errors, warnings and requests fail the test."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 400, "height": 800})
    opened, faults = context.new_page(), []
    opened.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith("data:") else faults.append(asked.url))
    opened.goto(page.as_uri())
    yield opened
    context.close()
    assert faults == [page.as_uri()]


def test_it_fits_a_phone_in_light_and_dark(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("[...document.images].filter(photo => !photo.naturalWidth).length") == 0
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", paper)[:3])) < 3 * 128
    assert dark == opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")


def test_a_word_shows_its_map_by_pointer_and_by_keyboard(opened):
    look = opened.locator(".look").first
    words = look.locator(".words button")

    def shown():
        """Return the word that is shown, its sentence, and how dark each patch is."""
        dark = look.locator("rect").evaluate_all("all => all.map(patch => Number(patch.getAttribute('fill-opacity')))")
        return look.locator("button.on").inner_text(), look.locator("output").inner_text(), dark

    def told(word):
        """Return the sentence and the darkness that the word's data say, of the first layer and way."""
        peak, levels = word.get_attribute("data-maps").split()[0].split(":")
        levels, side = [int(level, 36) for level in levels], int(len(levels) ** 0.5)
        row, column = divmod(levels.index(max(levels)), side)
        sentence = f"{word.inner_text()}: most at row {row + 1}, column {column + 1}, {peak} %"
        return word.inner_text(), sentence, pytest.approx([0.8 * (1 - level / 35) for level in levels], abs=1e-3)

    opened.locator(".maps input").first.check()
    words.nth(1).hover()
    assert shown() == told(words.nth(1))
    words.first.focus()
    assert shown() == told(words.first)
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert shown() == told(words.nth(2))
    assert words.nth(2).evaluate("word => word === document.activeElement")


def test_the_arrows_read_a_curve(opened):
    figure = opened.locator("figure:has(svg.curve)").first
    figure.locator("svg.curve").focus()
    opened.keyboard.press("ArrowLeft")
    cells = figure.locator("tbody tr").last.locator("th, td").all_text_contents()
    assert figure.locator("output").inner_text().split(", ")[0].split()[-1] == cells[0]
