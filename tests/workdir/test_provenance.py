"""bridge_jax/workdir/provenance.py and rankings.py: what a run records beside its checkpoints."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import bridge_jax
from bridge_jax.config import ConfigError
from bridge_jax.workdir import provenance, rankings
from tests.report import made

ROOT = Path(bridge_jax.__file__).resolve().parents[1]


def test_every_start_adds_a_line(tmp_path):
    assert provenance.read(tmp_path) == []
    provenance.write(tmp_path, 0, "abc")
    before = (tmp_path / "starts.jsonl").read_text()
    provenance.write(tmp_path, 7, "abd")
    assert (tmp_path / "starts.jsonl").read_text().startswith(before)
    first, second = provenance.read(tmp_path)
    assert (first["step"], first["data"], second["step"], second["data"]) == (0, "abc", 7, "abd")
    assert (first["platform"], first["processes"]) == ("cpu", 1)


def test_the_commit_is_that_of_the_code_wherever_the_run_starts(tmp_path, monkeypatch):
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    monkeypatch.chdir(tmp_path)
    assert provenance.commit()["commit"] == done.stdout.strip()


def test_a_package_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(bridge_jax, "__file__", str(tmp_path / "bridge_jax" / "__init__.py"))
    assert provenance.commit() == {"commit": "", "uncommitted": False}


@pytest.mark.parametrize("line", ["{", "[]", '{"at": ""}'])
def test_a_damaged_line_is_named(tmp_path, line):
    provenance.write(tmp_path, 0, "abc")
    with (tmp_path / "starts.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"starts\.jsonl, line 2: expected a start"):
        provenance.read(tmp_path)


def test_rankings_are_read_as_they_were_written_and_the_same_bytes_again(tmp_path):
    found = made.rankings(images=6)
    path = rankings.write(tmp_path, made.ABOUT, found)
    content = path.read_bytes()
    assert rankings.write(tmp_path, made.ABOUT, found).read_bytes() == content
    ((about, again),) = rankings.read(tmp_path)
    assert (about, again.weight) == (made.ABOUT, found.weight)
    for mine, theirs in zip([*again.text_to_image, *again[2:]], [*found.text_to_image, *found[2:]], strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype
    assert [each.name for each in path.parent.iterdir()] == ["shapes_val.npz"]


@pytest.mark.parametrize("cut", [0, 300])
def test_a_file_that_is_no_ranking_is_named(tmp_path, cut):
    path = rankings.write(tmp_path, made.ABOUT, made.rankings(images=6))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"shapes_val\.npz: expected the rankings of a split"):
        rankings.read(tmp_path)


def test_the_rankings_of_five_thousand_captions_are_small(tmp_path):
    path = rankings.write(tmp_path, made.ABOUT, made.rankings(images=1000, captions=5, k=16))
    assert path.stat().st_size < 5_000_000
