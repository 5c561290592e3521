"""A run whose last stage lets a decoder answer questions, and that it learns what it is shown."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError, evaluators
from bridge_jax.data import pipeline, questions
from bridge_jax.interop import torch_export
from bridge_jax.models import search
from bridge_jax.run import origin
from bridge_jax.step import sharding, train_step
from bridge_jax.step.batch import abstract_batch
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import runs
from tests.runs import assert_same, logged, parameters

LAST = 8
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny_vqa_generative):
    return config.parse(tiny_vqa_generative())


def test_the_stage_is_watched_by_the_evaluator_of_answers(whole, cfg):
    workdir, result = whole
    values = logged(workdir)
    assert {step for step, name in values if name == "eval/vqa/accuracy"} == {6, 8}
    assert {step for step, name in values if name == "train/vqa_generative/accuracy"} == {5, 6, 7, 8}
    assert {f"val/{score}/relation/accuracy_low" for score in ("vqa", "shuffled", "constant")} <= result.keys()
    saves = Checkpoints(workdir, read_only=True)
    assert saves.scores(LAST) == {"stage_index": 1.0, "vqa_accuracy": values[LAST, "eval/vqa/accuracy"]}
    assert saves.meta(LAST).fused_trained
    before, after = parameters(workdir, cfg, 6), parameters(workdir, cfg, LAST)
    biases = [path for path in after if path.endswith("bias")]  # that do not move by decay alone
    moved = {path for path in biases if not np.array_equal(before[path], after[path])}
    assert {path.partition("/")[0] for path in moved} == {"vision", "text", "bridge", "decoder"}


def test_a_stopped_run_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    assert runs.stopped_at((5, 6), cfg, tmp_path, monkeypatch) == whole[1]
    assert_same(tmp_path, whole[0])


def test_the_answers_travel_with_the_checkpoint(whole, cfg, monkeypatch):
    """Its own run and its scores are refused others; another run may start from it, as a decoder says any words."""
    known, mesh = questions.load_answers(cfg), sharding.make_mesh(cfg.mesh)
    saves = Checkpoints(whole[0], read_only=True)
    assert saves.meta(LAST).answers == known
    exported = torch_export.config_json(cfg, torch_export.restore(saves, LAST), saves.meta(LAST))
    assert exported["id2label"] == {str(i): answer for i, answer in enumerate(known)}
    monkeypatch.setattr(questions, "load_answers", lambda cfg: known[::-1])
    with pytest.raises(ConfigError, match=rf"it was trained on other answers .* answer 0 is {known[0]!r} there"):
        origin.resume(cfg, saves, LAST, mesh)
    origin.initial(dataclasses.replace(cfg, init_from=str(whole[0])), mesh)


def test_the_results_file_holds_an_answer_of_the_list_to_every_question(whole, cfg):
    mesh = sharding.make_mesh(cfg.mesh)
    evaluator = evaluators.build("vqa", cfg, build_predict(cfg, mesh, "vqa"))
    params = origin.initial(dataclasses.replace(cfg, init_from=str(whole[0])), mesh)
    written, count = evaluator.results(params, "val", lambda *_: None)
    records = pipeline.open_split(cfg.data, "val")
    asked = [one.id for record in records for one in record["questions"]]
    found = json.loads(written)
    assert [one["question_id"] for one in found] == asked
    assert count == len(asked)
    assert {one["answer"] for one in found} <= set(questions.load_answers(cfg))


def test_a_batch_of_any_size_gives_the_same_answers(cfg):
    """Their likelihoods, in the evaluator's own batches, at random parameters that have something to say."""
    mesh, found = sharding.make_mesh(cfg.mesh), []
    params = paths.unflatten(
        {path: x + 0.3 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
         for path, x in paths.flatten(origin.initial(cfg, mesh)).items()}
    )  # fmt: skip
    for size in (8, 64):
        settings = dataclasses.replace(cfg.evals["vqa"], batch_size=size)
        changed = dataclasses.replace(cfg, evals={**cfg.evals, "vqa": settings})
        evaluator = evaluators.build("vqa", changed, build_predict(changed, mesh, "vqa"))
        found.append(evaluator.answer(params, "val", range(16), lambda *_: None)[1])
    assert found[0] == found[1]
    assert len(set(found[0])) > 2


def test_a_run_that_wrote_captions_may_be_started_from(cfg, tiny_caption, tmp_path):
    """Its decoder goes on as the one that answers."""
    settings = tiny_caption()
    settings.stages.task.update(cached_crops=0)
    settings.decoder = {**cfg.decoder.__dict__}
    other = config.parse(settings)
    theirs = runs.saved(other, tmp_path)
    mesh = sharding.make_mesh(cfg.mesh)
    found = paths.flatten(origin.initial(dataclasses.replace(cfg, init_from=str(tmp_path)), mesh))
    assert found.keys() == theirs.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def test_the_plan_is_of_the_batch_that_there_is(cfg):
    batch = dataclasses.replace(pipeline.train(cfg, cfg.stages["task"], seed_stream="test")[0], broken=None)
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch)
    assert found == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_batch(cfg, cfg.stages["task"]))


def test_a_handful_of_questions_is_learned(cfg):
    """Eight questions, every one answered right, and other questions about the same pictures not so."""
    stage = dataclasses.replace(cfg.stages["task"], steps=300, group_examples=2)
    quiet = {side: dataclasses.replace(getattr(cfg, side), dropout=0.0) for side in ("vision", "text", "decoder")}
    evaluators = {**cfg.evals, "vqa": dataclasses.replace(cfg.evals["vqa"], batch_size=8)}
    cfg = dataclasses.replace(cfg, stages={**cfg.stages, "task": stage}, evals=evaluators, **quiet)
    mesh = sharding.make_mesh(cfg.mesh)
    batch = dataclasses.replace(pipeline.train(cfg, stage, seed_stream="test")[0], broken=None)
    right, (ids, mask) = batch.extras["answer_ids"], questions.load_answer_words(cfg)
    assert len({tuple(row) for row in right.tolist()}) > 3
    stage_step = train_step.build(cfg, cfg.stages["task"], 0, mesh)
    state = stage_step.init(jnp.int32(0), origin.initial(cfg, mesh))
    for _ in range(stage.steps):
        state, metrics = stage_step.train_step(state, sharding.put_batch(batch, mesh))
    assert metrics["vqa_generative/accuracy"] == 1
    predict = build_predict(cfg, mesh, "vqa")
    known = tuple(tuple(row[written].tolist()) for row, written in zip(ids, mask, strict=True))
    images, text = jax.device_get(
        (predict.lower_image(state.params, batch.images), predict.lower_text(state.params, batch.ids, batch.text_mask))
    )

    def answered(images, text, text_mask):
        lower = Lower(image=images, text=text, text_mask=text_mask)
        return np.asarray(predict.jit(search.likelihoods, known)(state.params, lower))

    found = answered(images, text, batch.text_mask)
    np.testing.assert_array_equal(ids[found.argmax(axis=-1)], right)
    assert np.exp(found.max(axis=-1)).min() > 0.5
    assert (np.exp(found).sum(axis=-1) <= 1 + 1e-4).all()
    asked = answered(images, np.roll(text, 1, axis=0), np.roll(batch.text_mask, 1, axis=0))
    assert (ids[asked.argmax(axis=-1)] != right).any()
