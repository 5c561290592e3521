"""One file per objective; file name = config key = metric prefix. The whole of an objective is in its file:

    loss(outputs, batch, **keywords) -> Loss
    NEEDS                                     what it needs besides: passes, a head, fields of the batch, see `Needs`

Nobody else has to know it by name. A loss whose only pass is `unimodal` compares the embeddings of all rows of the
batch; every other is a mean over rows.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge_jax.config.convert import ConfigError, nearest
from bridge_jax.config.keys import Config, Stage

if TYPE_CHECKING:  # so that a wrong config is refused before jax is imported
    import jax
    import numpy as np

    from bridge_jax.types import Batch, Fused, Loss, Lower


FOLDER = Path(__file__).parents[1] / "losses"  # an objective is found by its file: no import goes up a floor


class Row(NamedTuple):
    """What a loss makes its fields of the batch from, for one row."""

    ids: "np.ndarray"  # int32 [T]
    mask: "np.ndarray"  # bool [T]
    question: Any  # data.questions.Question: what is asked or stated; None of a caption


class Given(NamedTuple):
    """What a loss's own pass starts from, in training mode."""

    batch: "Batch"
    lower: "Lower"  # both towers' states where they first meet
    fused: "Fused | None"  # the pairs, if one of `Needs.passes` fuses them
    lower_frozen: bool  # what lies below the first bridged layer runs without dropout


Example = Callable[[Row, "np.random.Generator"], Mapping[str, "np.ndarray"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What an objective needs besides its keywords.

    `model` is the bound models.bridge.BridgeModel. What `score` or `own` returns, the loss finds as
    `outputs.own[<its name>]`. What makes an example goes to worker processes: a function of a module, or a partial of
    one.
    """

    passes: tuple[str, ...] = ()  # of forward.PASSES
    head: Callable[[Config, str], Any] | None = None  # (cfg, name) -> the module model.heads.of[name]
    score: Callable[..., Any] | None = None  # (model, fused, text mask, deterministic) -> what the head says of pairs
    own: Callable[[Any, Given], Any] | None = None  # (model, given) -> its own pass; None: `score` of the fused pairs
    extras: Callable[[Config], Mapping[str, "jax.ShapeDtypeStruct"]] | None = None  # its fields of the batch, of a row
    example: Callable[[Config, Any], Example] | None = None  # (cfg, tokenizer) -> what makes those fields
    reads: str = ""  # which texts of a record: captions, questions or statements; empty: whichever are drawn
    answers: bool = False  # what it learns to say is on the data set's closed list of answers
    pictures: Callable[[Config], int] | None = None  # of a row, if it may be more than one
    fuses: bool = True  # it trains what fuses a pair
    matches: bool = False  # its head adds to the match logit of pairs what it makes of their tokens' similarity [B]
    watcher: str = "retrieval"  # the evaluator of the stages that train on it
    decoder: tuple[str, ...] = ()  # values of config.decoder.reads with which the decoder serves it
    check: Callable[[Config], None] | None = None  # raises ConfigError where the rest of the config does not fit


def needs(name: str) -> Needs:
    """Return what the loss `name` needs. Raises ConfigError where there is none of that name."""
    return _module(name).NEEDS


def bind(name: str, arguments: Mapping[str, Any]) -> Callable[..., "Loss"]:
    """Return the loss with its keyword arguments bound. Raises ConfigError on a name or key unknown."""
    module = _module(name)
    keywords = {k: v for k, v in arguments.items() if k != "weight"}
    accepted = set(inspect.signature(module.loss).parameters) - {"outputs", "batch"}
    for keyword in keywords:
        if keyword not in accepted:
            raise ConfigError(f"config.losses.{name}.{keyword} is not a key; {nearest(keyword, accepted | {'weight'})}")
    for keyword in accepted:
        if keyword not in keywords:
            raise ConfigError(f"config.losses.{name}.{keyword} is missing")
    return partial(module.loss, **keywords)


@cache
def known() -> list[str]:
    """Return the names of all losses."""
    return sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))


def in_order(names: Iterable[str]) -> list[str]:
    """Return the losses in the order in which they draw random numbers, whatever the order of a stage's list."""
    return sorted(names, reverse=True)


def watcher(stage: Stage) -> str:
    """Return the evaluator by which the best checkpoint of a stage is chosen."""
    watchers = [needs(loss).watcher for loss in stage.losses]
    return next((name for name in watchers if name != "retrieval"), "retrieval")


def reads(stage: Stage) -> str:
    """Return which texts of the records a stage reads: captions, questions or statements."""
    return next(filter(None, (needs(loss).reads for loss in stage.losses)), "captions")


def pictures(cfg: Config, stage: Stage) -> int:
    """Return how many pictures of a record a row of a stage's batch has."""
    counts = [needs(loss).pictures for loss in stage.losses]
    return max((count(cfg) for count in counts if count), default=1)


def trains_fused(stage: Stage) -> bool:
    """Return whether a stage trains what fuses a pair."""
    return any(needs(loss).fuses for loss in stage.losses)


@cache
def _module(name: str) -> Any:
    if name not in known():
        raise ConfigError(f"config.losses.{name} is unknown; {nearest(name, known())}")
    return importlib.import_module(f"bridge_jax.losses.{name}")
