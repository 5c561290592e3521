"""tools/evaluate.py on a checkpoint: the evaluator's own numbers, on paper and in JSON. A process each, as users do."""

import dataclasses
import json

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import evaluators
from bridge_jax.config.as_json import as_dict
from bridge_jax.data import pipeline, questions, records
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import rankings
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process


def run(*arguments):
    return process.run("tools.evaluate", *arguments)


@pytest.fixture(scope="module")
def cfg(tiny):
    return config.parse(tiny())


@pytest.fixture(scope="module")
def params(cfg):
    return init_params(cfg)


@pytest.fixture(scope="module")
def workdir(cfg, params, tmp_path_factory):
    """Two checkpoints, the first with the better score."""
    folder = tmp_path_factory.mktemp("evaluate")
    opt_state = (
        train_step.build(cfg, cfg.stages["stabilise"], 0, sharding.make_mesh(cfg.mesh)).init(0, params).opt_state
    )
    saves = Checkpoints(folder)
    for step, rsum in ((2, 90.0), (4, 80.0)):
        saves.save(step, "stabilise", params, opt_state, cfg, data="0123456789ab")
        saves.score(step, {"stage_index": 0.0, "unimodal_rsum": rsum})
    saves.fit(2, "retrieval", {"rerank_weight": 8.0})
    saves.close()
    return folder


def test_it_prints_and_writes_the_evaluators_numbers(cfg, params, workdir, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    done = run(f"--workdir={workdir}", "--split=test", "--rerank", f"--json={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nshapes/test, step 2\n" in done.stdout
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["dataset"], record["split"], record["step"], record["stage"]) == ("shapes", "test", 2, "stabilise")
    assert record["data"] == records.fingerprint(cfg.data, "test")
    assert record["trained_on"] == "0123456789ab"
    fitted = dataclasses.replace(cfg.evals["retrieval"], rerank_weight=8.0)
    cfg = dataclasses.replace(cfg, evals={**cfg.evals, "retrieval": fitted})
    assert record["config"] == json.loads(json.dumps(as_dict(cfg)))
    expected = Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh))).run(params, "test", rerank=True)
    assert "rerank by match logit + 8 x logit scale x cosine" in done.stdout
    assert record["metrics"] == pytest.approx(expected)
    assert f"{expected['rerank/image_to_text/r@5']:.1f}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before if path != workdir} == before
    ((about, found),) = rankings.read(workdir)
    assert about == ("shapes", "test", 2, records.fingerprint(cfg.data, "test"))
    assert 100 * np.mean(found.image_to_text.rerank_rank <= 5) == expected["rerank/image_to_text/r@5"]


@pytest.fixture(scope="module")
def answering(tiny_vqa, tmp_path_factory):
    """A checkpoint of a stage on questions: its workdir, config and parameters."""
    folder, cfg = tmp_path_factory.mktemp("answering"), config.parse(tiny_vqa())
    params = init_params(cfg)
    saves = Checkpoints(folder)
    saves.save(8, "task", params, None, cfg, answers=questions.load_answers(cfg))
    saves.close()
    return folder, cfg, params


def test_a_stage_on_questions_is_scored_by_its_answers(answering, tmp_path):
    folder, cfg, params = answering
    done = run(f"--workdir={folder}", "--split=val", f"--json={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out.json").read_text())
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh), "vqa")
    expected = evaluators.build("vqa", cfg, predict).final(params, "val", lambda *_: None)
    assert record["metrics"] == pytest.approx(expected)
    assert f"{expected['shuffled/colour/accuracy']:.1f} [" in done.stdout
    done = run(f"--workdir={folder}", "--split=val", "--rerank")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--rerank: checkpoint 8 is of stage 'task', which vqa scores; leave it out" in done.stderr


def test_the_answers_are_written_as_the_server_takes_them(answering, workdir, tmp_path):
    folder, cfg, params = answering
    done = run(f"--workdir={folder}", "--split=test", f"--results={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "out.json").read_text())
    records = pipeline.open_split(cfg.data, "test")
    evaluator = evaluators.build("vqa", cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "vqa"))
    given = evaluator.answer(params, "test", range(len(records)), lambda *_: None)[1]
    ids = [question.id for record in records for question in record["questions"]]
    assert found == [{"question_id": id_, "answer": said} for id_, said in zip(ids, given, strict=True)]
    done = run(f"--workdir={workdir}", "--split=test", f"--results={tmp_path / 'none.json'}")
    assert (done.returncode, (tmp_path / "none.json").exists()) == (2, False)
    assert (
        "--results: checkpoint 2 is of stage 'stabilise', which retrieval scores and writes no results for"
        in done.stderr
    )


def test_the_newest_checkpoint_and_moved_data(workdir, small_shapes):
    moved = run(f"--workdir={workdir}", "--split=val", "--checkpoint=latest", f"--data_dir={small_shapes}")
    assert moved.returncode == 0
    assert moved.stdout.startswith("shapes/val, step 4\n")
    assert "rerank" not in moved.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workdir=/no/run", "--split=val"], "'/no/run/checkpoints' is not there"),
        (["--split=vall"], "data set 'shapes' has no split 'vall'; nearest: 'val'"),
        (["--split=val", "--checkpoint=3"], "no checkpoint '3' in "),
        (["--split=val", "--checkpoint=newest"], "there is best, latest, 2, 4"),
        (["--split=val", "--data_dir=/no/data"], "is not prepared in /no/data/shapes/2.3.0; run python -m"),
        (["--split=val", "--vocabulary=/no/vocab.txt"], "no file /no/vocab.txt"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(workdir, arguments, says):
    done = run(f"--workdir={workdir}", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
