"""The contract of an evaluator: a class that lacks a part of it is refused by name."""

import dataclasses
import sys

import pytest

import bridge_jax.evals
from bridge_jax.config import ConfigError, evaluators, parse
from bridge_jax.losses import mlm
from configs import pretrain, shapes

LACKS_MOST = """
from bridge_jax.config.evaluators import StageEvaluator
class Evaluator(StageEvaluator):
    def __init__(self, cfg, predict, *, lower_frozen=False): ...
    def final(self, params, split, progress): return {}
"""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            LACKS_MOST,
            r"evals/oddity\.py: Evaluator lacks check, score, summary, table, watch, Settings; bridge_jax",
        ),
        ("class Evaluator: ...\n", r"evals/oddity\.py: Evaluator is no subclass of Evaluator or StageEvaluator"),
        ("", r"config\.evals\.oddity is not a config key"),
    ],
)
def test_an_evaluator_that_lacks_a_part_of_the_contract_is_refused_by_name(monkeypatch, tmp_path, source, says):
    (tmp_path / "oddity.py").write_text(source)
    monkeypatch.setattr(evaluators, "FOLDER", tmp_path)
    monkeypatch.setattr(bridge_jax.evals, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "bridge_jax.evals.oddity", raising=False)
    config = shapes.get_config()
    config.evals = {"oddity": {}}
    with pytest.raises(ConfigError, match=says):
        parse(config)


def test_an_evaluator_that_scores_no_stage_chooses_no_checkpoint(monkeypatch):
    monkeypatch.setattr(mlm, "NEEDS", dataclasses.replace(mlm.NEEDS, evaluator="mlm"))
    with pytest.raises(ConfigError, match=r"losses: bridge_jax/evals/mlm\.py scores no stage, so it cannot choose the"):
        parse(pretrain.get_config())


@pytest.mark.parametrize("name", ["caption", "mlm", "nlvr2", "retrieval", "snli_ve", "vqa"])
def test_the_evaluators_keep_the_contract(name):
    found = evaluators.find(name)
    scores_stages = issubclass(found, evaluators.StageEvaluator)
    keys = {field.name for field in dataclasses.fields(found.Settings)}
    assert {"batch_size", "splits"} <= keys
    assert ("every_steps" in keys) == scores_stages
