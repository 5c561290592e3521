"""The contract of an evaluator: one file, whose name is the config key.

A file bridge_jax/evals/NAME.py defines a class `Evaluator`, which is one of

    Evaluator         scores splits at the end of a run
    StageEvaluator    also scores a stage while it trains, and so chooses the best checkpoint; tools.evaluate runs it;
                      the `Needs` of a loss names it (`objectives.evaluator_of`)

and, if there is an official format for its results, also `WritesResults`; if settings of its own are fitted to a
checkpoint, also `Fits`; if a report shows its rankings, also `LeavesRankings`. No other file names it.
"""

import abc
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bridge_jax.config.convert import ConfigError, nearest, require
from bridge_jax.config.keys import Config

if TYPE_CHECKING:  # so that a wrong config is refused before jax is imported
    from bridge_jax.types import Params, Progress, Table

FOLDER = Path(__file__).parents[1] / "evals"  # an evaluator is found by its file: no import goes up a floor


class Evaluator(abc.ABC):
    """Score splits of the data. Built once for a run, with the inference functions of the step."""

    Settings: ClassVar[type]  # dataclass: the keys of config.evals.NAME, among them batch_size and splits
    losses: ClassVar[tuple[str, ...]] = ()  # a config that has it needs one of these losses; empty: none

    @classmethod
    @abc.abstractmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError, before a run begins, where its data cannot be scored."""

    @abc.abstractmethod
    def __init__(self, cfg: Config, predict: Any, *, lower_frozen: bool = False) -> None:
        """Take the config and its `step.predict.Predict`.

        `lower_frozen`: what lies below the first bridged layer never changes while the evaluator lives.
        """

    @abc.abstractmethod
    def final(self, params: "Params", split: str, progress: "Progress") -> dict[str, float]:
        """Return every metric of `split`, name -> value, logged as `final/<split>/<name>`.

        No two evaluators may use the same name: begin it with that of the file. Raises FloatingPointError on NaN.
        """

    @staticmethod
    @abc.abstractmethod
    def table(metrics: Mapping[str, float]) -> "Table":
        """Return what people read of the metrics of `final`."""


class StageEvaluator(Evaluator):
    """Score held-out data while a stage trains, too. Its Settings have `every_steps`."""

    @abc.abstractmethod
    def watch(self, params: "Params", progress: "Progress") -> dict[str, float]:
        """Return metrics of config.data.eval_split, name -> value."""

    @abc.abstractmethod
    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the one metric of `watch` that chooses the best checkpoint, name -> value; more is better."""

    @abc.abstractmethod
    def summary(self, metrics: Mapping[str, float]) -> str:
        """Return one line on the metrics of `watch`."""


class WritesResults(abc.ABC):
    """Write what the model says of a split, unscored, for a benchmark's server or script."""

    @abc.abstractmethod
    def results(self, params: "Params", split: str, progress: "Progress") -> tuple[str, int]:
        """Return the text of the official results file of `split`, and how many results it has."""


class Fits(abc.ABC):
    """Fit some of the evaluator's settings to a checkpoint, on config.data.eval_split, by which it was chosen too."""

    @abc.abstractmethod
    def fit(self, params: "Params", progress: "Progress") -> dict[str, float]:
        """Return settings, name -> value, and use them from now on; none, where the config asks for none.

        They are stored with the checkpoint, in place of what was fitted to it before.
        """


class LeavesRankings(abc.ABC):
    """Return the order behind the scores of a split, too. A run and tools.evaluate leave it in the workdir."""

    @abc.abstractmethod
    def ranked(self, params: "Params", split: str, progress: "Progress") -> tuple[dict[str, float], Any]:
        """Return the metrics of `final`, and the `evals.scores.rankings.Rankings`; None where there are none."""


def settings(cfg: Config, name: str) -> Any:
    """Return the settings of an evaluator. Raises ConfigError where the config has none."""
    require(name in cfg.evals, f"config.evals.{name} is missing; add it to the config file (see configs/common.py)")
    return cfg.evals[name]


@cache
def find(name: str) -> type[Evaluator]:
    """Return the evaluator `name`. Raises ConfigError where there is none, or where it lacks a part of the contract."""
    files = [file.name for file in pkgutil.iter_modules([str(FOLDER)])]
    found = _class(name) if name in files else None
    if found is None:
        known = [file for file in files if _class(file)]
        raise ConfigError(f"config.evals.{name} is not a config key; {nearest(name, known)}")
    require(
        issubclass(found, Evaluator),
        f"bridge_jax/evals/{name}.py: Evaluator is no subclass of Evaluator or StageEvaluator in "
        "bridge_jax/config/evaluators.py; make it one",
    )
    lacks = sorted(found.__abstractmethods__) + ([] if hasattr(found, "Settings") else ["Settings"])
    require(
        not lacks,
        f"bridge_jax/evals/{name}.py: Evaluator lacks {', '.join(lacks)}; bridge_jax/config/evaluators.py says what "
        "each is",
    )
    return found


def check(cfg: Config) -> None:
    """Raise ConfigError where the data cannot be scored by the evaluators of the config."""
    for name in cfg.evals:
        find(name).check(cfg)


def build(name: str, cfg: Config, predict: Any, *, lower_frozen: bool = False) -> Any:
    """Return the evaluator `name`, which calls the inference functions (`step.predict.Predict`) built for it.

    Raises ConfigError.
    """
    return find(name)(cfg, predict, lower_frozen=lower_frozen)


def _class(file: str) -> Any:
    return getattr(importlib.import_module(f"bridge_jax.evals.{file}"), "Evaluator", None)
