"""tools/report.py, a process each, as users do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.report import made

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "tools.report", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def workdir(tmp_path):
    return made.workdir(tmp_path / "run")


def test_it_writes_the_page_and_names_it(workdir):
    done = run(workdir)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{workdir}/report.html\n", "")
    assert "10 of 10 steps" in (workdir / "report.html").read_text(encoding="utf-8")


def test_a_torn_last_line_is_left_out_and_named(workdir, tmp_path):
    log = workdir / "metrics.jsonl"
    with log.open("a") as file:
        file.write('{"step": 10, "ti')
    before = log.read_bytes()
    done = run(workdir, f"--out={tmp_path / 'page.html'}")
    assert (done.returncode, log.read_bytes()) == (2, before)
    assert "metrics.jsonl: a kill cut its last line; the page leaves it out" in done.stderr
    assert done.stderr.count("\n") == 1
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A kill cut the last line" in page
    assert ">60.0 [50.0, 70.0]<" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected a workdir, such as"),
        (["FOLDER"], "outcome.json is not there: expected a workdir of bridge_jax.main"),
        (["WORKDIR", "--out=FOLDER/none/page.html"], "--out: "),
    ],
)
def test_what_cannot_be_done_is_one_line(workdir, tmp_path, arguments, says):
    done = run(*(word.replace("FOLDER", str(tmp_path)).replace("WORKDIR", str(workdir)) for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))
