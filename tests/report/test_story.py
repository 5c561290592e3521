"""bridge_jax/report/story.py: what a workdir tells, and what it does not."""

import json

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.report import story
from tests.report import made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return made.workdir(tmp_path_factory.mktemp("story") / "run")


def test_it_reads_what_the_run_wrote(workdir):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    told = story.read(str(workdir))
    assert told.stages == [story.Stage("train", 0, 10)]
    assert told.series("train/loss") == [(2, 2.0), (4, 1.0), (6, 4 / 6), (8, 0.5), (10, 0.4)]
    assert (told.outcome["cause"], told.step, told.torn) == ("finished", 10, False)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_stages_follow_each_other_in_the_order_in_which_they_ran():
    config = {"stage_order": ["b", "a"], "stages": {"a": {"steps": 3}, "b": {"steps": 5}}}
    assert story.stages_of(config) == [story.Stage("b", 0, 5), story.Stage("a", 5, 8)]


def test_changes_are_the_keys_that_differ_from_the_base():
    base = json.loads(json.dumps(story.common.base().to_dict()))
    changed = json.loads(json.dumps(base))
    changed["seed"] = 7
    changed["vision"] = {"width": 32}
    del changed["bridge"]["heads"]
    heads = json.dumps(base["bridge"]["heads"])
    assert story.changes(base) == []
    assert set(story.changes(changed)) == {
        ("seed", "0", "7"), ("vision.width", story.ABSENT, "32"), ("bridge.heads", heads, story.ABSENT)
    }  # fmt: skip


def test_a_run_without_a_finished_stage_is_refused(tmp_path):
    made.workdir(tmp_path / "run", steps=4)
    with pytest.raises(ConfigError, match=r"no stage is finished: the first, 'train', has 10 steps and the run stands"):
        story.read(str(tmp_path / "run"))


def test_a_log_is_newer_than_the_outcome_of_a_killed_run():
    assert story.reached({"step": 3}, [{"step": 2}, {"step": 8}]) == 8


@pytest.mark.parametrize("secs", ["[]", '{"train": -1}', '{"train": NaN}', '{"train": "x"}'])
def test_a_damaged_outcome_is_refused(tmp_path, secs):
    wanted = ("cause", "exit_code", "message", "command", "host", "began", "at", "stage", "starts")
    record = json.dumps(dict.fromkeys(wanted, "") | {"goodput": 0.5, "step": 1})
    (tmp_path / "outcome.json").write_text(f'{record[:-1]}, "secs": {secs}}}')
    with pytest.raises(ConfigError, match=r"outcome\.json: expected an outcome of bridge_jax"):
        story.read(str(tmp_path))


def test_a_run_without_a_checkpoint_is_refused(tmp_path, workdir):
    for name in ("outcome.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    with pytest.raises(ConfigError, match="no stage is finished: the run has saved no checkpoint yet"):
        story.read(str(tmp_path))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is not there: expected a workdir"):
        story.read(str(tmp_path))


def test_a_log_that_is_damaged_before_its_end_is_refused(tmp_path, workdir):
    for name in ("outcome.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "ti\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 7: expected a log entry"):
        story.read(str(tmp_path))
