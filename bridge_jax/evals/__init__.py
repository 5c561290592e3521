"""One file per evaluator; file name = config key = metric prefix in the log of a run's end.

An evaluator module defines

    check(cfg)                  raise ConfigError, before a run begins, where its data cannot be scored
    Evaluator(cfg, predict, *, lower_frozen)
        .watch(params, progress)          -> metrics of config.data.eval_split, while a stage trains
        .score(metrics)                   -> name and value of what chooses the best checkpoint; more is better
        .says(metrics)                    -> one line on them
        .final(params, split, progress)   -> all metrics of a split
        .results(params, split, progress) -> the text of an official results file, and how many it has; not of retrieval
    table(metrics)              -> types.Table, of what `final` returned

`config.watcher` says which of them watches a stage.
"""

import importlib
from types import ModuleType
from typing import Any

from bridge_jax.config import Config, evaluators
from bridge_jax.step import Predict


def module(name: str) -> ModuleType:
    """Return the module of the evaluator `name`, one of config.evals."""
    return importlib.import_module(f"{__name__}.{name}")


def check(cfg: Config) -> None:
    """Raise ConfigError where the data cannot be scored by the evaluators of the config."""
    for name in evaluators(cfg):
        module(name).check(cfg)


def build(name: str, cfg: Config, predict: Predict, *, lower_frozen: bool = False) -> Any:
    """Return the evaluator `name`, which calls the inference functions built for it. Raises ConfigError.

    `lower_frozen`: what lies below the first bridged layer never changes while the evaluator lives.
    """
    return module(name).Evaluator(cfg, predict, lower_frozen=lower_frozen)
