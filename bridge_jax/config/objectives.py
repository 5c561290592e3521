"""The contract of a loss: one file, whose name is the config key and the prefix of its metrics.

A file bridge_jax/losses/NAME.py defines

    loss(outputs, batch, **keywords) -> Loss    its keywords are the keys of config.losses.NAME, beside `weight`
    NEEDS                                       `Needs`: the passes, the head, the fields of the batch, ...

No other file names it. A loss whose only pass is `unimodal` compares the embeddings of all rows of the batch; every
other is a mean over rows.
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

    from bridge_jax.types import Array, Batch, Fused, Loss, Lower


FOLDER = Path(__file__).parents[1] / "losses"  # an objective is found by its file: no import goes up a floor


PASSES = {  # `step.forward` runs the first four, the `output` of a loss the others
    "unimodal": "both towers alone",
    "fused": "every true pair through the bridge",
    "mismatched": "each text with mined images and each image with mined texts, in one call with the true pairs",
    "each_picture": "the row's text fused with each of the row's pictures",
    "masked": "every true pair with words or patches masked, fused",
    "compared": "words and patches by the first interaction layer's queries and keys, before anything is fused",
}
FUSING = {"fused", "mismatched", "each_picture", "masked"}


class Row(NamedTuple):
    """One row of a batch, from which a loss makes its fields."""

    ids: "np.ndarray"  # int32 [T]
    mask: "np.ndarray"  # bool [T]
    question: Any  # data.questions.Question: the question or statement; None for a caption


MakeFields = Callable[[Row, "np.random.Generator"], Mapping[str, "np.ndarray"]]


class Fields(NamedTuple):
    """Fields of the batch that a single loss reads, `batch.extras`. A worker process makes them."""

    shapes: Callable[[Config], Mapping[str, "jax.ShapeDtypeStruct"]]  # name -> shape and dtype of a row
    maker: Callable[[Config, Any], MakeFields]  # (cfg, tokenizer) -> a function of a module, or a partial of one


class Inputs(NamedTuple):
    """The states from which a loss computes its own output."""

    batch: "Batch"
    lower: "Lower"  # both towers' states where they first meet
    fused: "Fused | None"  # the pairs, if one of `Needs.passes` fuses them
    fused_mask: "Array"  # bool, the text mask of those pairs
    lower_frozen: bool  # the blocks below the first bridged layer run without dropout
    deterministic: bool  # all others do too: while parameters are drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a loss needs besides its keywords; `model` is the bound models.bridge.BridgeModel."""

    passes: tuple[str, ...]  # names of PASSES
    head: Callable[[Config, str], Any] | None = None  # (cfg, name) -> the module model.heads.by_loss[name]
    # (model, Inputs) -> outputs.own[name]; it gets no Inputs (None) where `unimodal` is the only pass
    output: Callable[[Any, Any], Any] | None = None
    fields: Fields | None = None
    reads: str = ""  # texts of a record: captions, questions (answered from a closed list) or statements; empty: any
    pictures: Callable[[Config], int] | None = None  # pictures of a row, if there may be more than one
    decoder: tuple[str, ...] = ()  # values of config.decoder.reads with which the decoder serves it
    evaluator: str = "retrieval"  # chooses the best checkpoint of the stages that train on it
    wrong_captions: bool = False  # embeds the row's own wrong captions too, as every loss over `mismatched` does
    check: Callable[[Config], None] | None = None  # raises ConfigError where the rest of the config does not fit


def needs(name: str) -> Needs:
    """Return what the loss `name` needs. Raises ConfigError where there is none of that name, or an unknown pass."""
    found = _module(name).NEEDS
    for each in found.passes:
        if each not in PASSES:
            raise ConfigError(
                f"bridge_jax/losses/{name}.py: NEEDS.passes has {each!r}, which is no pass; {nearest(each, PASSES)}"
            )
    return found


def bind(name: str, arguments: Mapping[str, Any]) -> Callable[..., "Loss"]:
    """Return the loss with its keyword arguments bound. Raises ConfigError on an unknown name or key."""
    module = _module(name)
    keywords = {k: v for k, v in arguments.items() if k != "weight"}
    accepted = set(inspect.signature(module.loss).parameters) - {"outputs", "batch"}
    for keyword in keywords:
        if keyword not in accepted:
            raise ConfigError(f"config.losses.{name}.{keyword} is not a key; {nearest(keyword, accepted | {'weight'})}")
    for keyword in accepted:
        if keyword not in keywords:
            raise ConfigError(
                f"config.losses.{name}.{keyword} is missing; add it to the config file "
                f"(bridge_jax/losses/{name}.py says what it means)"
            )
    return partial(module.loss, **keywords)


@cache
def known() -> list[str]:
    """Return the names of all losses."""
    return sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))


def in_order(names: Iterable[str]) -> list[str]:
    """Return the losses in the order in which they draw random numbers, whatever the order of a stage's list."""
    return sorted(names, reverse=True)


def evaluator_of(stage: Stage) -> str:
    """Return the evaluator by which the best checkpoint of a stage is chosen."""
    evaluators = [needs(loss).evaluator for loss in stage.losses]
    return next((name for name in evaluators if name != "retrieval"), "retrieval")


def reads(stage: Stage) -> str:
    """Return which texts of the records a stage reads: captions, questions or statements."""
    return next(filter(None, (needs(loss).reads for loss in stage.losses)), "captions")


def pictures(cfg: Config, stage: Stage) -> int:
    """Return how many pictures of a record a row of a stage's batch has."""
    counts = [needs(loss).pictures for loss in stage.losses]
    return max((count(cfg) for count in counts if count), default=1)


def trains_fused(stage: Stage) -> bool:
    """Return whether a stage trains what fuses a pair."""
    return any(FUSING & set(needs(loss).passes) for loss in stage.losses)


def wrong_captions(stage: Stage) -> int:
    """Return how many wrong captions of a record a row of a stage's batch has."""
    reads_them = mines(stage) or any(needs(loss).wrong_captions for loss in stage.losses)
    return stage.wrong_captions if reads_them else 0


def partners_brought(cfg: Config, stage: Stage) -> int:
    """Return how many pictures, and how many captions, from the whole split a row of a stage's batch has."""
    return cfg.mining.partners if mines(stage) and cfg.mining.source == "split" else 0


def mines(stage: Stage) -> bool:
    """Return whether a stage fuses wrong pairs."""
    return any("mismatched" in needs(loss).passes for loss in stage.losses)


def stages_with(cfg: Config, loss: str) -> list[Stage]:
    """Return the stages of a run that train on a loss, for its `check`."""
    return [stage for stage in cfg.run_stages if loss in stage.losses]


@cache
def _module(name: str) -> Any:
    if name not in known():
        raise ConfigError(f"config.losses.{name} is unknown; {nearest(name, known())}")
    module = importlib.import_module(f"bridge_jax.losses.{name}")
    lacks = [part for part in ("loss", "NEEDS") if not hasattr(module, part)]
    if lacks:
        raise ConfigError(
            f"bridge_jax/losses/{name}.py lacks {' and '.join(lacks)}; bridge_jax/config/objectives.py says what "
            "each is"
        )
    return module
