"""A run whose last stage judges statements about two pictures: watched, resumed and chosen by its own evaluator."""

import dataclasses

import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.data import pipeline
from bridge_jax.run import origin
from bridge_jax.step import sharding
from bridge_jax.step.params import init_params
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process, runs
from tests.runs import assert_same, logged

LAST = 8
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny_nlvr2):
    return config.parse(tiny_nlvr2())


def test_the_stage_is_watched_by_its_own_evaluator(whole):
    workdir, result = whole
    values = logged(workdir)
    assert {step for step, name in values if name == "eval/nlvr2/accuracy"} == {6, 8}
    assert {step for step, name in values if name == "train/nlvr2/accuracy"} == {5, 6, 7, 8}
    assert any(name.startswith("train/entropy/layer_0/") for _, name in values)
    assert {f"val/{score}/side/accuracy_low" for score in ("nlvr2", "shuffled", "majority")} <= result.keys()
    saves = Checkpoints(workdir, read_only=True)
    assert saves.scores(LAST) == {"stage_index": 1.0, "nlvr2_accuracy": values[LAST, "eval/nlvr2/accuracy"]}
    assert saves.meta(LAST).fused_trained


def test_a_stopped_run_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    assert runs.stopped_at((3, 6), cfg, tmp_path, monkeypatch) == whole[1]
    assert_same(tmp_path, whole[0])


def test_a_run_of_another_task_may_be_started_from_and_the_head_is_new(cfg, tiny, tmp_path):
    settings = tiny()
    settings.stage_order = ("stabilise",)
    other = config.parse(settings)
    theirs = runs.saved(other, tmp_path)
    mesh = sharding.make_mesh(cfg.mesh)
    found = paths.flatten(origin.initial(dataclasses.replace(cfg, init_from=str(tmp_path)), mesh))
    fresh = paths.flatten(init_params(cfg))
    assert found.keys() == fresh.keys()
    for path, value in found.items():
        expected = fresh if path.startswith("heads/nlvr2/") else theirs
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_the_commands_evaluate_a_checkpoint_and_write_its_judgements(whole, cfg, tmp_path):
    def run(*arguments):
        done = process.run("tools.evaluate", f"--workdir={whole[0]}", "--split=test", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "one answer" in run()
    assert "64 results of test" in run(f"--results={tmp_path / 'said.csv'}")
    lines = (tmp_path / "said.csv").read_text().splitlines()
    ids = [str(q.id) for record in pipeline.open_split(cfg.data, "test") for q in record["statements"]]
    assert [line.split(",")[0] for line in lines] == ids
    assert {line.split(",")[1] for line in lines} <= {"True", "False"}
