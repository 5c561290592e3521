"""Preparation and doctor tell what img2dataset could not fetch, from the files beside its tars."""

import json

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, fetch_stats
from bridge_jax.data.datasets import cc3m
from bridge_jax.data.filters import Filters
from tests.data.test_filters import photo, prepare, tar

LOST = "HTTP Error 404: Not Found"


def stats(raw, name, count, statuses):
    """Write the file as img2dataset's `write_stats` does."""
    told = {"count": count, "successes": statuses["success"], "failed_to_download": count - statuses["success"]}
    told |= {"failed_to_resize": 0, "duration": 3.5, "status_dict": statuses}
    (raw / f"{name}_stats.json").write_text(json.dumps(told, indent=4))


@pytest.fixture
def raw(tmp_path):
    for number in range(2):
        place = tar(tmp_path / "raw", f"0000{number}.tar", {f"{number}": (photo(number), ["a dog"])})
        stats(place, f"0000{number}", 10, {"success": 1, LOST: 5, "timed out": 1 + number, "refused": 2 - number})
    stats(place, "00007", 10, {"success": 10})  # of a tar that is not there
    return place


def test_the_preparation_and_the_doctor_count_what_was_not_fetched_by_reason(raw, tmp_path):
    line, out = prepare(raw, tmp_path / "out", Filters(), "cc3m")
    told = f"{LOST} 10, refused 3, timed out 3, 1 more 2"
    assert line == f"{out}: train 2; img2dataset did not fetch 18 of 20 ({told})"
    for source in (doctor.raw(cc3m.Builder.survey, raw), doctor.prepared(out)):
        (found,) = doctor.examine(source, cc3m.Builder, None, workers=1).findings
        names = [f"{LOST} (10)", "refused (3)", "timed out (3)", "other reasons (2)"]
        assert found == ("not_fetched", 18, 20, names)
    (raw / "00000_stats.json").unlink()
    (raw / "00000.tar").unlink()
    tar(raw, "00002.tar", {"2": (photo(2), ["a dog"])})
    stats(raw, "00002", 1, {"success": 1})
    assert "train 3; img2dataset did not fetch 18 of 21 (" in prepare(raw, tmp_path / "out", Filters(), "cc3m")[0]


def test_what_img2dataset_dropped_and_reasons_of_single_hosts_are_one_reason(tmp_path):
    (tmp_path / "0.tar").touch()
    stats(tmp_path, "0", 100, {"success": 0} | {f"host\n{n} \ud800\x1b[2J": n for n in range(1, 13)} | {"x" * 300: 13})
    found = fetch_stats.read(tmp_path / "0.tar")
    assert found == {"x" * 100: 13, "other reasons": 9} | {f"host {n} [2J": n for n in range(1, 13)}
    stats(tmp_path, "0", 400, {"success": 1} | {f"host {n}": n for n in range(1, 26)})
    found = fetch_stats.read(tmp_path / "0.tar")
    kept = {f"host {n}": n for n in range(6, 26)}
    assert found == kept | {"success": 1, "other reasons": 399 - sum(kept.values())}


def test_stats_of_another_form_are_refused_before_the_tars_are_read(raw, tmp_path):
    (raw / "00001_stats.json").write_text(json.dumps({"count": 3, "successes": 2, "status_dict": {"success": -2}}))
    told = r"00001_stats\.json: expected the counts of img2dataset \(count, successes, status_dict\); fetch"
    with pytest.raises(ConfigError, match=told):
        prepare(raw, tmp_path / "out", Filters(), "cc3m")
    assert not list((tmp_path / "out").rglob("*.parquet"))
    listed = {one.kind: one for one in doctor.examine(doctor.raw(cc3m.Builder.survey, raw), cc3m.Builder, None, 1)[0]}
    assert (listed["annotations"].count, listed["not_fetched"].count) == (1, 9)
