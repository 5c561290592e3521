"""The page in Chromium: it asks, reranks in place, goes back, and loads nothing from elsewhere."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from playwright.sync_api import expect

from bridge_jax.index import query, serve
from tests import browsers

REFUSED = "status of 400"  # the browser logs each; a test asks for one


@pytest.fixture(scope="module")
def address(model, built):
    """Serve the album in a thread of this process and return its address."""
    server = uvicorn.Server(uvicorn.Config(serve.app(query.open_search(model, built)), log_level="warning"))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with browsers.started() as started:
        yield started


@pytest.fixture
def page(browser, address):
    """Return a page whose errors and requests to elsewhere fail the test."""
    context = browser.new_context(viewport={"width": 400, "height": 800}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(browsers.TIMEOUT_MS)
    page, faults, here = context.new_page(), [], (address, "blob:", "data:")
    page.on(
        "console", lambda said: faults.append(said.text) if said.type == "error" and REFUSED not in said.text else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(here) else faults.append(request.url))
    page.goto(address)
    expect(page.locator("#about")).to_contain_text("step 1")  # its script has begun
    yield page
    context.close()
    assert faults == []


def ask(page, text):
    page.fill("#q", text)
    page.press("#q", "Enter")
    expect(page.locator("#status")).to_contain_text(" ms")


def paths(page):
    return page.locator(".path").all_inner_texts()


def test_a_text_is_answered_and_reranked_in_place(page, search):
    steps = []
    page.on("response", lambda answer: steps.append(answer.url) if "/search?" in answer.url else None)
    ask(page, "a red circle")
    expect(page.locator("#status")).to_contain_text("reranked")
    assert ["rerank=0" in url for url in steps] == [True, False]
    expected = search.text("a red circle", k=100).hits[:24]
    assert paths(page) == [hit.photo.path for hit in expected]
    assert page.locator(".score b").first.inner_text() == f"{round(100 * expected[0].likely)} %"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth && i.src).length") == 0


def test_links_and_the_back_button_hold_the_query(page):
    ask(page, "a red circle")
    first = paths(page)
    page.locator(".like").nth(2).click()
    expect(page.locator("#status")).to_contain_text("by the embeddings")
    assert paths(page)[0] == first[2]
    link = page.url
    page.go_back()
    expect(page.locator("#status")).to_contain_text("reranked")
    assert (page.input_value("#q"), paths(page)) == ("a red circle", first)
    page.goto(link)
    expect(page.locator("#status")).to_contain_text(" ms")
    assert paths(page)[0] == first[2]


def test_keys_reach_everything(page):
    ask(page, "a red circle")
    page.press("#q", "ArrowDown")
    page.keyboard.press("ArrowRight")
    second = paths(page)[1]
    page.keyboard.press("c")
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"/{second}")
    page.keyboard.press("m")
    expect(page.locator("#status")).to_contain_text("by the embeddings")
    assert paths(page)[0] == second
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_a_word_shows_where_it_looks(page):
    ask(page, "a red circle")
    page.locator(".words button").nth(1).hover()
    page.wait_for_selector(".view canvas")
    assert page.locator(".words button[aria-pressed=true]").inner_text() == "red"


def test_a_photo_is_dropped_and_a_filter_set(page, search, album):
    photo = next(iter(search.index.photos.values()))
    page.set_input_files("#upload", album / photo.path)
    expect(page.locator("#status")).to_contain_text("by the embeddings")
    assert paths(page)[0] == photo.path
    page.locator("summary").click()
    page.select_option("#folder", "squares")
    expect(page.locator(".hit")).to_have_count(12)
    assert all(path.startswith("squares/") for path in paths(page))


def test_a_wrong_query_is_told_on_the_page(page):
    page.fill("#q", "circle - circle")
    with page.expect_response("**/search*"):
        page.press("#q", "Enter")
    page.wait_for_selector("#status.wrong")
    assert "cancel out" in page.inner_text("#status")
