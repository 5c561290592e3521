"""One file per evaluator; file name = config key = metric prefix in the log of a run's end.

An evaluator module defines

    Settings                    the record of its section of config.evals: batch_size, splits, and every_steps where it
                                may watch a stage
    LOSSES                      the losses of which a config that has it needs one; empty: none
    check(cfg)                  raise ConfigError, before a run begins, where its data cannot be scored
    Evaluator(cfg, predict, *, lower_frozen)
        .watch(params, progress)          -> metrics of config.data.eval_split, while a stage trains
        .score(metrics)                   -> name and value of what chooses the best checkpoint; more is better
        .says(metrics)                    -> one line on them
        .final(params, split, progress)   -> all metrics of a split
        .results(params, split, progress) -> the text of an official results file, and how many it has; not of retrieval
    table(metrics)              -> types.Table, of what `final` returned

`objectives.evaluator_of` says which of them watches a stage.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from bridge_jax.config.convert import ConfigError, nearest, require
from bridge_jax.config.keys import Config

FOLDER = Path(__file__).parents[1] / "evals"  # an evaluator is found by its file: no import goes up a floor


def settings(cfg: Config, name: str) -> Any:
    """Return the settings of an evaluator. Raises ConfigError where the config has none."""
    require(name in cfg.evals, f"config.evals.{name} is missing; add it to the config file (see configs/common.py)")
    return cfg.evals[name]


@cache
def module(name: str) -> Any:
    """Return the module of the evaluator `name`. Raises ConfigError where there is none of that name."""
    files = [found.name for found in pkgutil.iter_modules([str(FOLDER)])]
    found = importlib.import_module(f"bridge_jax.evals.{name}") if name in files else None
    if not hasattr(found, "Evaluator"):
        known = [file for file in files if hasattr(importlib.import_module(f"bridge_jax.evals.{file}"), "Evaluator")]
        raise ConfigError(f"config.evals.{name} is not a config key; {nearest(name, known)}")
    return found


def check(cfg: Config) -> None:
    """Raise ConfigError where the data cannot be scored by the evaluators of the config."""
    for name in cfg.evals:
        module(name).check(cfg)


def build(name: str, cfg: Config, predict: Any, *, lower_frozen: bool = False) -> Any:
    """Return the evaluator `name`, which calls the inference functions (`step.predict.Predict`) built for it.

    Raises ConfigError.

    `lower_frozen`: what lies below the first bridged layer never changes while the evaluator lives.
    """
    return module(name).Evaluator(cfg, predict, lower_frozen=lower_frozen)
