"""The evaluator against a slow twin that judges one statement at a time; consistency against the official count."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import config, paths, rng
from bridge_jax.config import ConfigError
from bridge_jax.data import image, pipeline, text
from bridge_jax.data.questions import Question
from bridge_jax.evals import asking, nlvr2
from bridge_jax.evals.asking import Asked
from bridge_jax.losses.nlvr2 import judge
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from configs import common
from tests import runs

SPLIT = "val"


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny()
    settings.losses.nlvr2 = dict(weight=1.0, pictures=2)
    settings.evals.nlvr2 = common.asking(batch_size=7, splits=(SPLIT,), bootstrap_samples=20, select_images=5)
    return config.parse(settings)


@pytest.fixture(scope="module")
def params(cfg):
    """Random parameters with open gates and a head whose judgements depend on the pictures."""
    return runs.opened(cfg, "heads/nlvr2")


@pytest.fixture(scope="module")
def evaluator(cfg):
    return nlvr2.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "nlvr2"))


@pytest.fixture(scope="module")
def metrics(evaluator, params):
    return evaluator.final(params, SPLIT, lambda *_: None)


@pytest.fixture(scope="module")
def alone(cfg, params):
    """Judge one statement about one pair, each picture fused with it in a call of its own."""
    model, tokenizer = BridgeModel(cfg), text.load(cfg.data, cfg.text)
    records = pipeline.open_split(cfg.data, SPLIT)

    def run(model, left, right, ids, mask):
        said = model.lower_text(ids, mask)
        fused = [
            model.fused(Lower(image=model.lower_image(pixels), text=said, text_mask=mask)) for pixels in (left, right)
        ]
        both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *fused)
        return judge(model, both, jnp.concatenate([mask, mask]))

    jitted = jax.jit(lambda *args: nn.apply(run, model)({"params": params}, *args))

    def one(record, said):
        views = [image.eval_view(records[record][key], cfg.vision.image_px)[None] for key in ("image", "second_image")]
        return bool(jitted(*views, *tokenizer.encode([said]))[0] > 0)

    return one


def worth(cfg, judge, order):
    found = {}
    for number, record in enumerate(pipeline.open_split(cfg.data, SPLIT)):
        for statement in record["statements"]:
            right = str(judge(order[number], statement.text)).lower() == statement.answers[0]
            found.setdefault(statement.kind, []).append(float(right))
    return found


def check_against(metrics, name, found):
    everything = [value for values in found.values() for value in values]
    assert 0 < np.mean(everything) < 1
    assert metrics[f"{name}/accuracy"] == pytest.approx(100 * np.mean(everything))
    for kind, values in found.items():
        assert metrics[f"{name}/{kind}/accuracy"] == pytest.approx(100 * np.mean(values))
        assert metrics[f"{name}/{kind}/statements"] == len(values)


def test_it_judges_as_one_statement_at_a_time_is_judged(cfg, metrics, alone):
    check_against(metrics, "nlvr2", worth(cfg, alone, range(16)))


def test_shuffled_judges_another_pair(cfg, metrics, alone):
    check_against(
        metrics, "shuffled", worth(cfg, alone, asking.derangement(16, rng.stream_seed(cfg.seed, f"nlvr2/{SPLIT}")))
    )


def test_majority_is_the_larger_class_of_every_kind(cfg, metrics):
    of_kind = {}
    for record in pipeline.open_split(cfg.data, SPLIT):
        for statement in record["statements"]:
            of_kind.setdefault(statement.kind, []).append(statement.answers == ("true",))
    assert of_kind.keys() == {"both", "neither", "one", "side"}
    for kind, values in of_kind.items():
        assert metrics[f"majority/{kind}/accuracy"] == pytest.approx(100 * max(np.mean(values), 1 - np.mean(values)))
    assert "nlvr2/consistency" not in metrics  # no sentence is shared


def stub(cfg, evaluator, monkeypatch, said):
    """Return an evaluator of hand-made records, [record][statement] -> (sentence, truth, what the model says)."""
    rows = [
        [Question(10 * n + i, "x", "statement", (str(true).lower(),), f"dev-{n}-{i}", sentence)
         for i, (sentence, true, _) in enumerate(statements)]
        for n, statements in enumerate(said)
    ]  # fmt: skip
    flat = [one for record in rows for one in record]
    given = [given for statements in said for *_, given in statements]
    made = nlvr2.Evaluator(cfg, evaluator._predict)
    positions = [n for n, record in enumerate(rows) for _ in record]
    monkeypatch.setattr(
        made, "answer", lambda *args, **kw: ([Asked(p, q) for p, q in zip(positions, flat, strict=True)], given)
    )
    return made


def test_consistency_is_the_share_of_sentences_right_every_time(cfg, evaluator, monkeypatch):
    """As nlvr2/eval/metrics.py counts: identifiers without the pair, a wrong judgement spoils the sentence."""
    said = [
        [("s-0", True, True), ("s-1", False, True)],
        [("s-0", False, False), ("s-1", True, True)],
        [("t-0", False, False)],
        [("u-0", True, False)],
    ]
    found = stub(cfg, evaluator, monkeypatch, said).final({}, SPLIT, lambda *_: None)
    assert found["nlvr2/accuracy"] == pytest.approx(100 * 4 / 6)
    assert found["nlvr2/consistency"] == pytest.approx(100 * 2 / 4)
    assert found["nlvr2/sentences"] == 4
    assert found["nlvr2/consistency_low"] <= found["nlvr2/consistency"] <= found["nlvr2/consistency_high"]
    assert found["majority/accuracy"] == pytest.approx(50)
    (line,) = nlvr2.Evaluator.table(found).lines
    assert line.startswith("consistency 50.0 [")
    assert line.endswith("judged right every time, of 4 sentences")


def test_statements_that_share_a_record_or_a_sentence_are_drawn_together():
    def asked(*pairs):
        return [Asked(p, Question(i, "x", "k", (), "", sentence)) for i, (p, sentence) in enumerate(pairs)]

    found = nlvr2.independent_sets(asked((0, "a"), (0, "b"), (1, "b"), (2, "c"), (3, ""), (4, ""), (5, "c")))
    groups = [{i for i, v in enumerate(found) if v == value} for value in sorted(set(found))]
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 6], [4], [5]]


def test_the_results_are_as_the_official_score_reads_them(cfg, evaluator, params, monkeypatch):
    said = [[("s-0", True, True), ("s-1", False, True)], [("s-0", False, False)]]
    made = stub(cfg, evaluator, monkeypatch, said)
    assert made.results({}, SPLIT, lambda *_: None) == ("dev-0-0,True\ndev-0-1,True\ndev-1-0,False\n", 3)
    text_of, count = evaluator.results(params, SPLIT, lambda *_: None)
    statements = [q for record in pipeline.open_split(cfg.data, SPLIT) for q in record["statements"]]
    assert [line.split(",")[0] for line in text_of.splitlines()] == [str(q.id) for q in statements]
    assert count == len(statements)


def test_watching_looks_at_the_first_records_only(evaluator, params):
    watched = evaluator.watch(params, lambda *_: None)
    assert watched["nlvr2/statements"] == 5 * 4
    assert evaluator.score(watched) == {"nlvr2_accuracy": watched["nlvr2/accuracy"]}
    assert f"nlvr2 accuracy {watched['nlvr2/accuracy']:.1f} (both " in evaluator.summary(watched)


def test_a_nan_is_an_error(evaluator, params):
    flat = paths.flatten(params)
    bad = paths.unflatten({**flat, "heads/nlvr2/out/bias": np.full(1, np.nan, np.float32)})
    with pytest.raises(FloatingPointError, match="nlvr2: a logit is NaN"):
        evaluator.watch(bad, lambda *_: None)


def test_the_table_has_every_kind(metrics):
    table = nlvr2.Evaluator.table(metrics)
    assert [row[0].strip() for row in table.rows] == ["all", "both", "neither", "one", "side"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.lines == []


class Records(list):
    pictures = 1


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ([], "has no statements, but the nlvr2 loss and the nlvr2 evaluator read them"),
        ([("true",)], r"pictures is 2, but a record of 'shapes' has 1; set config.losses.nlvr2.pictures=1"),
    ],
)
def test_data_that_cannot_be_judged_is_refused(cfg, monkeypatch, statements, says):
    record = {"statements": [Question(1, "x", "k", answers) for answers in statements]}
    monkeypatch.setattr(pipeline, "open_split", lambda data, split: Records([record]))
    with pytest.raises(ConfigError, match=says):
        nlvr2.Evaluator.check(cfg)


def test_statements_of_which_nobody_says_whether_they_are_true_are_refused(cfg, monkeypatch):
    one = dataclasses.replace(cfg, losses={"nlvr2": {"weight": 1.0, "pictures": 1}})
    record = {"statements": [Question(1, "x", "k", ())]}
    monkeypatch.setattr(pipeline, "open_split", lambda data, split: Records([record]))
    with pytest.raises(ConfigError, match="the statements of split 'val' have no judgements to score with"):
        nlvr2.Evaluator.check(one)
