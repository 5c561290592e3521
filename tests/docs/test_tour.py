"""docs/tour.ipynb: every cell, in IPython's shell, which is Jupyter's and Colab's too, with the tiny experiment."""

import base64
import html
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from traitlets.config import Config

from bridge_jax.run import train
from bridge_jax.step import train_step
from configs import shapes
from tests import runs
from tests.report.test_page import Tags, assert_it_loads_nothing

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs/tour.ipynb"
STEPS = 4
COLAB = "https://colab.research.google.com/github/OWNER/bridge_jax/blob/main/docs/tour.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return json.loads(TOUR.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def told(notebook, tiny, small_shapes, tmp_path_factory):
    """Run the cells. Return the text and the HTML that each code cell shows."""
    folder, said, config = tmp_path_factory.mktemp("tour"), [], tiny()
    config.stages.align.losses = shapes.get_config().stages.align.losses  # the towers are tiny, the stages its own
    (folder / "data").mkdir()
    (folder / "data/shapes").symlink_to(small_shapes / "shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("STEPS", str(STEPS))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("VIRTUAL_ENV", raising=False)  # IPython warns where it is of another Python
        patch.setattr(shapes, "get_config", lambda: config)
        patch.setattr(train_step, "build", runs.build)
        patch.setattr(train, "build_predict", runs._build_predict)
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell has one of its own
        shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}), colors="nocolor")
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                with capture_output() as captured:
                    done = shell.run_cell("".join(cell["source"]))
                assert done.success, captured.stdout
                kinds, _ = shell.display_formatter.format(done.result)
                said.append((captured.stdout, kinds.get("text/html", "")))
    return said


def shown(html):
    """Return the pictures of a cell, uint8 [n,H,W,3], and their labels."""
    found = re.findall(r'base64,([^"]+)" width="160"><br>(.*?)</td>', html)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source, _ in found]
    return pictures, [label for _, label in found]


def test_it_is_short_and_holds_no_outputs(notebook):
    cells = notebook["cells"]
    assert len(cells) <= 20
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert max(len(cell["source"]) for cell in cells) <= 22
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_it_opens_in_colab(notebook):
    """From its own badge, from the README and from the site; and there it installs the package."""
    assert COLAB in "".join(notebook["cells"][0]["source"])
    for page in ("README.md", "docs/index.md"):
        assert COLAB in (ROOT / page).read_text(encoding="utf-8")
    first = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert '%pip install --quiet "bridge_jax @ git+https://github.com/OWNER/bridge_jax"' in first


def test_it_links_to_pages_that_are_there(notebook):
    links = re.findall(r"\]\((?!https:)(.*?)\)", "".join(line for cell in notebook["cells"] for line in cell["source"]))
    assert links
    assert [link for link in links if not (TOUR.parent / link).is_file()] == []


def test_it_trains_the_steps_that_are_asked_for_and_prints_the_recall(told):
    (text,) = (text for text, _ in told if "shapes/val_relations" in text)
    assert f"stabilise: step {STEPS}/{STEPS} " in text
    assert f"align: step {STEPS * 3 // 2}/{STEPS * 3 // 2} " in text
    assert re.search(r"text_to_image +│ rerank", text)
    (shares,) = (text for text, _ in told if "% right" in text)
    assert re.fullmatch(r"unimodal +\d+ % right\nrerank +\d+ % right\n", shares)


def test_it_shows_scenes_answers_and_maps(told):
    scenes, answers, maps = (shown(html) for _, html in told if 'width="160"' in html)
    assert [len(labels) for _, labels in (scenes, answers)] == [5, 5]
    assert all(re.fullmatch(r"score -?\d+\.\d", label) for label in answers[1])  # after 6 steps nothing is likely
    (caption,) = (text.splitlines()[0] for text, html in told if re.search(r"score -?\d+\.\d<", html))
    assert " ".join(maps[1]) == caption
    best = np.asarray(answers[0][0], np.float32)
    for lit in maps[0]:
        share = lit.mean() / best.mean()
        assert 0.15 < share < 0.95  # some patches are dark, the brightest is not
        assert np.abs(lit - best).max(axis=2).reshape(2, 80, 2, 80).mean(axis=(1, 3)).min() < 4


def test_it_shows_the_report(told):
    (page,) = (re.search(r'srcdoc="(.*?)"', html, re.DOTALL)[1] for _, html in told if "<iframe" in html)
    page = html.unescape(page)
    assert_it_loads_nothing(page)
    assert {"words", "looks"} <= {attrs["id"] for _, attrs in Tags(page).seen if "id" in attrs}


def test_pytorch_has_the_same_match_logit(told):
    (text,) = (text for text, _ in told if "match logit in PyTorch" in text)
    there, here = map(float, re.findall(r"-?\d+\.\d{3}", text))
    assert there == pytest.approx(here, abs=0.02)  # the index holds float16
