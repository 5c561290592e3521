"""METEOR against the COCO code's own call of the same program, and what is said where it cannot be called."""

import os
import shutil

import numpy as np
import pytest
from pycocoevalcap.meteor.meteor import Meteor

from bridge_jax.evals import caption as evaluator
from bridge_jax.evals.scores import meteor

CANDIDATES = ["a dog is running in the park", "cats asleep on a sofa", "a man rides a horse", "", "a café ||| open"]
REFERENCES = [
    ["a dog runs in the park", "the dog is running"],
    ["two cats sleep"],
    ["the man is riding on a brown horse", "person on horseback"],
    ["a tree"],
    ["the café is open", "an open café"],
]
# The program's protocol: counts are the words of the candidate and of its first reference, a score is their ratio.
STAND_IN = """#!/usr/bin/env python3
import sys
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print(len(parts[-1].split()), len(parts[0].split()), flush=True)
    else:
        for _ in range(len(parts) + 1):
            print({answer}, flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a `java` on the PATH that answers as the program does, without Java."""

    def put(answer: str, text: str = STAND_IN) -> None:
        path = tmp_path / "java"
        path.write_text(text.replace("{answer}", answer))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


RATIO = "float(parts[0].split()[0]) / float(parts[0].split()[1])"


def test_it_is_the_score_of_the_coco_code():
    """Of the Java program itself where there is Java."""
    if shutil.which("java") is None:
        pytest.skip("no java on this machine")
    coco = Meteor()
    whole, each = coco.compute_score(dict(enumerate(REFERENCES)), {i: [said] for i, said in enumerate(CANDIDATES)})
    coco.meteor_p.stdout.close()  # it would leave them open
    coco.meteor_p.stderr.close()
    found = meteor.scores(CANDIDATES, REFERENCES, samples=50, seed=0)
    assert found["meteor"] == pytest.approx(whole, abs=1e-12)
    assert found["meteor"] != pytest.approx(np.mean(each), abs=1e-3)  # of sums, no mean of pictures
    assert found["meteor_low"] < found["meteor"] < found["meteor_high"]


def test_the_interval_is_of_summed_counts_of_drawn_pictures(stand_in):
    stand_in(RATIO)
    found = meteor.scores(CANDIDATES, REFERENCES, samples=40, seed=3)
    said = np.array([len(c.replace("|||", " ").split()) for c in CANDIDATES])
    known = np.array([len(others[0].split()) for others in REFERENCES])
    generator = np.random.default_rng(3)
    drawn = [generator.integers(5, size=5) for _ in range(40)]
    low, high = np.percentile([said[rows].sum() / known[rows].sum() for rows in drawn], (2.5, 97.5))
    expected = {"meteor": said.sum() / known.sum(), "meteor_low": low, "meteor_high": high}
    assert found == pytest.approx(expected)


def test_without_java_or_the_package_a_line_says_so(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    assert meteor.missing() == "no java on the PATH; install a Java runtime"
    with pytest.raises(meteor.MeteorError, match="no java on the PATH"):
        meteor.scores(CANDIDATES, REFERENCES, samples=1, seed=0)
    monkeypatch.setattr(meteor.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    assert meteor.missing().endswith("is not installed: pip install 'bridge_jax[java]'")


@pytest.mark.parametrize(
    ("answer", "text", "says"),
    [
        ("", "#!/bin/sh\nexit 1\n", "the program ended"),
        ("'out of memory'", STAND_IN, "expected a score, got 'out of memory'"),
    ],
)
def test_a_program_that_fails_is_an_error_that_says_how(stand_in, answer, text, says):
    stand_in(answer, text)
    with pytest.raises(meteor.MeteorError, match=says):
        meteor.scores(CANDIDATES, REFERENCES, samples=1, seed=0)


def metrics(*names):
    ends = ("", "_low", "_high")
    found = {f"{of}/{name}{end}": 0.25 for of in ("caption", "shuffled") for name in names for end in ends}
    return found | {"caption/pictures": 5.0}


def test_the_table_has_it_or_says_why_not(monkeypatch):
    rows = {row[0]: row[1] for row in evaluator.Evaluator.table(metrics("cider", "meteor")).rows}
    assert rows["METEOR"] == "0.25 [0.25, 0.25]"
    monkeypatch.setattr(meteor, "missing", lambda: "no java")
    table = evaluator.Evaluator.table(metrics("cider"))
    assert [row[0] for row in table.rows] == ["CIDEr-D"]
    assert table.lines == ["5 pictures", "METEOR is left out: no java"]
    monkeypatch.setattr(meteor, "missing", lambda: "")
    assert evaluator.Evaluator.table(metrics("cider")).lines[-1] == "METEOR is left out: its program failed"
