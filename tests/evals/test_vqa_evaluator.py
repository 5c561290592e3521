"""The evaluator against a slow twin that answers one question at a time."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from bridge_jax import config, paths, rng
from bridge_jax.config import ConfigError
from bridge_jax.data import image, pipeline, questions, text
from bridge_jax.evals import asking, vqa
from bridge_jax.losses.vqa import score
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from configs import common, shapes
from tests import runs

SPLIT = "val"


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny()
    settings.losses.vqa = shapes.get_config("task=vqa").losses.vqa
    settings.evals.vqa = common.asking(batch_size=7, splits=(SPLIT,), bootstrap_samples=20, select_images=5)
    return config.parse(settings)


@pytest.fixture(scope="module")
def params(cfg):
    """Random parameters with open gates and a head whose answers depend on the picture."""
    return runs.opened(cfg, "heads/vqa")


@pytest.fixture(scope="module")
def evaluator(cfg):
    return vqa.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "vqa"))


@pytest.fixture(scope="module")
def metrics(evaluator, params):
    return evaluator.final(params, SPLIT, lambda *_: None)


@pytest.fixture(scope="module")
def alone(cfg, params):
    """Answer one question about one picture, each alone in a batch of its own."""
    model, tokenizer, known = BridgeModel(cfg), text.load(cfg.data, cfg.text), questions.load_answers(cfg)
    records = pipeline.open_split(cfg.data, SPLIT)

    def run(model, images, ids, mask):
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=mask)
        return score(model, model.fused(lower), mask)

    jitted = jax.jit(lambda *args: nn.apply(run, model)({"params": params}, *args))

    def answer(picture, question):
        pixels = image.eval_view(records[picture]["image"], cfg.vision.image_px)[None]
        return known[int(np.argmax(jitted(pixels, *tokenizer.encode([question.text]))))]

    return answer


def worth(cfg, answer, order):
    """Return kind -> what every question of SPLIT scores when record i's are asked about picture order[i]."""
    found = {}
    for number, record in enumerate(pipeline.open_split(cfg.data, SPLIT)):
        for question in record["questions"]:
            right = answer(order[number], question) == question.answers[0]  # all ten agree
            found.setdefault(question.kind, []).append(float(right))
    return found


def check_against(metrics, name, found):
    everything = [value for values in found.values() for value in values]
    assert metrics[f"{name}/accuracy"] == pytest.approx(100 * np.mean(everything))
    for kind, values in found.items():
        assert metrics[f"{name}/{kind}/accuracy"] == pytest.approx(100 * np.mean(values))
        assert metrics[f"{name}/{kind}/questions"] == len(values)


def test_it_answers_as_one_question_at_a_time_is_answered(cfg, metrics, alone):
    found = worth(cfg, alone, range(16))
    assert 0 < np.mean([v for values in found.values() for v in values]) < 1
    check_against(metrics, "vqa", found)


def test_shuffled_asks_about_another_picture(cfg, evaluator, params, metrics, alone):
    order = asking.derangement(16, rng.stream_seed(cfg.seed, f"vqa/{SPLIT}"))
    check_against(metrics, "shuffled", worth(cfg, alone, order))


def test_every_question_meets_the_picture_that_it_is_asked_about(cfg, evaluator, params):
    """Answers that depend on the picture alone: a record's are then those of the picture that it was given."""

    def by_picture(params, lower):
        sums = np.abs(np.asarray(lower.image)).sum(axis=(1, 2))
        return np.arange(17) == (1e4 * sums).astype(int)[:, None] % 17

    predict = dataclasses.replace(evaluator._predict, jit=lambda function: by_picture)
    order, stub = asking.derangement(16, 3), vqa.Evaluator(cfg, predict)
    asked, here = stub.answer(params, SPLIT, range(16), lambda *_: None)
    of_picture = {one.position: given for one, given in zip(asked, here, strict=True)}
    assert len(set(of_picture.values())) > 3
    asked, there = stub.answer(params, SPLIT, order, lambda *_: None, records=range(16))
    assert there == [of_picture[order[one.position]] for one in asked]


def test_constant_is_the_best_answer_to_every_kind(cfg, metrics):
    counts = {}
    for record in pipeline.open_split(cfg.data, SPLIT):
        for question in record["questions"]:
            of_kind = counts.setdefault(question.kind, {})
            of_kind[question.answers[0]] = of_kind.get(question.answers[0], 0) + 1
    for kind, of_kind in counts.items():
        expected = 100 * max(of_kind.values()) / sum(of_kind.values())
        assert metrics[f"constant/{kind}/accuracy"] == pytest.approx(expected)
    assert metrics["constant/relation/accuracy"] == 50


def test_watching_looks_at_the_first_pictures_only(cfg, evaluator, params):
    watched = evaluator.watch(params, lambda *_: None)
    records = pipeline.open_split(cfg.data, SPLIT)
    assert watched["vqa/questions"] == sum(len(records[i]["questions"]) for i in range(5))
    assert evaluator.score(watched) == {"vqa_accuracy": watched["vqa/accuracy"]}
    assert f"vqa accuracy {watched['vqa/accuracy']:.1f} (colour " in evaluator.summary(watched)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_nothing_keeps_its_place_in_a_derangement(count):
    for seed in range(20):
        order = asking.derangement(count, seed)
        assert sorted(order) == list(range(count))
        assert not (order == np.arange(count)).any()


def test_a_nan_is_an_error(evaluator, params):
    flat = paths.flatten(params)
    bad = paths.unflatten({**flat, "heads/vqa/out/bias": np.full(17, np.nan, np.float32)})
    with pytest.raises(FloatingPointError, match="vqa: a logit is NaN"):
        evaluator.watch(bad, lambda *_: None)


def test_the_table_has_every_kind(metrics):
    table = vqa.Evaluator.table(metrics)
    assert [row[0].strip() for row in table.rows] == ["all", "colour", "count", "relation", "shape", "size"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][2].startswith(f"{metrics['vqa/accuracy']:.1f} [{metrics['vqa/accuracy_low']:.1f}, ")


def test_questions_without_answers_are_refused(cfg, monkeypatch):
    record = {"questions": [questions.Question(1, "is it ?", "yes/no", ())]}
    monkeypatch.setattr(pipeline, "open_split", lambda data, split: [record])
    with pytest.raises(ConfigError, match="the questions of split 'val' have no answers to score with"):
        vqa.Evaluator.check(cfg)
