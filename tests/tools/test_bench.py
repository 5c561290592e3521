"""tools.bench: what the benchmarks measured comes into one table, and two commits are compared by it."""

import json

import pytest

from bridge_jax.config import ConfigError
from tests import process
from tools import measured
from tools.measured import Figure, Measured


def test_a_user_gets_a_table_and_the_reasons_of_what_was_left_out(tmp_path):
    file = tmp_path / "before.json"
    words = ["tools.bench", "--only=rerank,search", "--rounds=2", "--config=configs/shapes.py"]
    done = process.run(*words, f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert "rerank: ms of 100 candidates" in done.stdout
    assert "search was left out: needs --workdir" in done.stdout
    (found,) = measured.read(file, measured.conditions(words[3:])).values()
    assert (found.better, found.rival, len(found.values), len(found.beside)) == ("less", "states repeated", 2, 2)
    assert min(found.values + found.beside) > 0


def test_a_file_of_another_machine_or_config_or_of_nothing_is_refused(tmp_path):
    file, now = tmp_path / "before.json", measured.conditions(["--config=a.py"])
    for other in (now | {"cores": 1024}, measured.conditions(["--config=b.py"])):
        file.write_text(json.dumps({"commit": "abc", "conditions": other, "figures": {}}))
        with pytest.raises(ConfigError, match=r"was measured with .*: measure abc anew"):
            measured.read(file, now)
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"is no file of tools\.bench --json"):
        measured.read(file, now)


def test_a_figure_moves_against_its_rival_and_better_is_always_more():
    slow, fast = Measured("less", (10.0, 11.0), "rival", (5.0, 5.5)), Measured("less", (2.0, 2.2), "rival", (2.0, 2.2))
    assert measured.change(slow, fast) == "+100.0 %"  # 2 times the rival's milliseconds, then as many
    many, more = Measured("more", (100.0, 104.0)), Measured("more", (103.0, 105.0))
    assert measured.change(many, more) == "+2.0 %, within the rounds"


def test_figures_are_read_as_they_were_kept(tmp_path):
    kept = Figure("pairs/s", 3.0, measured.MORE, "a rival", 4.0), Figure("GiB", 1.0, measured.LESS)
    file = tmp_path / "figures"
    file.write_text("".join(json.dumps(one) + "\n" for one in kept))
    assert measured.figures_of(file) == list(kept)


def test_a_run_that_ends_before_its_first_step_is_one_line(tmp_path):
    done = process.run("tools.bench_start", "--config=configs/shapes.py", f"--config.data.data_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the run ended before its first step: config.data: data set 'shapes' ")
