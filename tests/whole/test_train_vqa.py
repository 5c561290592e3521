"""A run whose last stage answers questions: watched, resumed and chosen by its own evaluator."""

import dataclasses

import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError, objectives
from bridge_jax.data import questions
from bridge_jax.run import origin
from bridge_jax.step import sharding
from bridge_jax.step.params import init_params
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import runs
from tests.runs import assert_same, logged, parameters

LAST = 8
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny_vqa):
    return config.parse(tiny_vqa())


def test_every_stage_is_watched_by_its_own_evaluator(whole):
    workdir, result = whole
    values = logged(workdir)
    assert {step for step, name in values if name == "eval/unimodal/rsum"} == {2, 4}
    assert {step for step, name in values if name == "eval/vqa/accuracy"} == {6, 8}
    assert {step for step, name in values if name == "train/vqa/accuracy"} == {5, 6, 7, 8}
    assert {f"val/{score}/relation/accuracy_low" for score in ("vqa", "shuffled", "constant")} <= result.keys()
    assert not any("unimodal" in name for name in result)
    saves = Checkpoints(workdir, read_only=True)
    assert saves.scores(LAST) == {"stage_index": 1.0, "vqa_accuracy": values[LAST, "eval/vqa/accuracy"]}
    accuracies = {step: values[step, "eval/vqa/accuracy"] for step in (6, 8)}
    assert accuracies[saves.best()] == max(accuracies.values())


def test_a_stopped_run_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    assert runs.stopped_at((3, 4, 6), cfg, tmp_path, monkeypatch) == whole[1]
    assert_same(tmp_path, whole[0])


def test_the_answers_travel_with_the_checkpoint_and_others_are_refused(whole, cfg, monkeypatch):
    known = questions.load_answers(cfg)
    saves = Checkpoints(whole[0], read_only=True)
    assert saves.meta(LAST).answers == known
    swapped = (known[1], known[0], *known[2:])
    monkeypatch.setattr(questions, "load_answers", lambda cfg: swapped)
    mesh = sharding.make_mesh(cfg.mesh)
    says = rf"it was trained on other answers .* answer 0 is {known[0]!r} there and {known[1]!r} here"
    with pytest.raises(ConfigError, match=says):
        origin.resume(cfg, saves, LAST, mesh)
    with pytest.raises(ConfigError, match=f"config.init_from: .*{says}"):
        origin.initial(dataclasses.replace(cfg, init_from=str(whole[0])), mesh)


def test_questions_leave_the_bridge_trained(whole, cfg):
    """What starts from it does not begin with the fused heads as copies of the unimodal ones."""
    assert objectives.trains_fused(cfg.stages["task"])
    assert Checkpoints(whole[0], read_only=True).meta(LAST).fused_trained


def test_a_run_of_another_task_may_be_started_from_and_the_head_is_new(whole, cfg, tiny, tmp_path):
    settings = tiny()
    settings.stage_order = ("stabilise",)
    other = config.parse(settings)
    theirs = runs.saved(other, tmp_path)
    mesh = sharding.make_mesh(cfg.mesh)
    found = paths.flatten(origin.initial(dataclasses.replace(cfg, init_from=str(tmp_path)), mesh))
    fresh = paths.flatten(init_params(cfg))
    assert found.keys() == fresh.keys()
    for path, value in found.items():
        expected = fresh if path.startswith("heads/vqa/") else theirs
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_the_head_is_left_where_another_task_starts(whole, cfg, tiny):
    other = config.parse(tiny())
    mesh = sharding.make_mesh(other.mesh)
    found = paths.flatten(origin.initial(dataclasses.replace(other, init_from=str(whole[0])), mesh))
    best = parameters(whole[0], cfg, Checkpoints(whole[0]).best())
    assert found.keys() == {path for path in best if not path.startswith("heads/vqa/")}
    for path, value in found.items():
        np.testing.assert_array_equal(value, best[path], err_msg=path)
