"""bridge_jax/report/page.py: the page stands alone, is small, and lets no text of a file through as HTML."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest

from bridge_jax.report import page, story
from tests.report import made

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return story.read(str(made.workdir(tmp_path_factory.mktemp("page") / "run", seed=5)))


class Tags(HTMLParser):
    """Collect the tags and their attributes, and check that they nest."""

    def __init__(self, html):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_tells_the_run(told):
    html = page.render(told)
    for shown in ("10 of 10 steps, stage train", ">finished<", "Where its 10 seconds went", "gate/layer_0",
                  ">60.0 [50.0, 70.0]<", "<td>seed</td><td>0</td><td>5</td>", "Other final scores"):  # fmt: skip
        assert shown in html, shown
    tags = Tags(html)
    assert tags.open == []
    assert [tag for tag, _ in tags.seen].count("h1") == 1
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in tags.seen if tag == "a"} <= {f"#{name}" for name in ids}
    assert all("aria-label" in attrs for tag, attrs in tags.seen if tag == "svg")


def test_the_page_loads_nothing(told):
    html = page.render(told)
    assert_it_loads_nothing(html)


def assert_it_loads_nothing(html):
    tags = Tags(html).seen
    assert {tag for tag, _ in tags} & {"link", "iframe", "object", "embed", "base", "form"} == set()
    assert [attrs for _, attrs in tags if attrs.keys() & {"srcset", "style", "action"}] == []
    assert all(attrs["src"].startswith("data:image/webp;base64,") for _, attrs in tags if "src" in attrs)
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    assert not re.search(r"https?://|url\(|@import|import\(|fetch\(", html)


def test_only_its_own_style_and_script_are_allowed(told):
    html = page.render(told)
    (policy,) = (attrs["content"] for _, attrs in Tags(html).seen if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_texts_are_shown_and_not_run(told):
    stage = story.Stage(HOSTILE, 0, 10)
    config = {**told.config, "stages": {HOSTILE: told.config["stages"]["train"]}, "init_from": HOSTILE}
    entries = [*told.entries, {"step": 10, f"train/{HOSTILE}": 1.0, f"final/{HOSTILE}/unimodal/text_to_image/r@1": 1.0,
                               f"final/{HOSTILE}": 1.0}]  # fmt: skip
    texts = dict.fromkeys(("message", "command", "host", "began", "at", "stage", "cause"), HOSTILE)
    hostile = dataclasses.replace(told, workdir=HOSTILE, stages=[stage], config=config, entries=entries,
                                  outcome=told.outcome | texts | {"secs": {HOSTILE: 1.0}})  # fmt: skip
    html = page.render(hostile)
    assert html.count("<script>") == html.count("</style>") == 1
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert {tag for tag, _ in Tags(html).seen} == {tag for tag, _ in Tags(page.render(told)).seen} | {"p"}


def test_a_long_run_stays_a_small_page(told):
    """A million values, of 50 metrics at 20,000 steps; a panel keeps 400 of its own."""
    entries = [{"step": step} | {f"train/m{i}": float(step * i % 7) for i in range(50)} for step in range(1, 20_001)]
    html = page.render(dataclasses.replace(told, entries=entries, stages=[story.Stage("train", 0, 20_000)]))
    assert len(html) < 3_000_000
    assert len(page.render(told)) < 100_000


def test_a_run_without_scores_says_so(told):
    entries = [entry for entry in told.entries if not any(name.startswith("final/") for name in entry)]
    assert "has not scored its best checkpoint yet" in page.render(dataclasses.replace(told, entries=entries))
