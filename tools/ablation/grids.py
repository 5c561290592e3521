"""The grids: which rows each table has, and what each row changes in an experiment.

The last row of a grid is the method. The claim of a grid is that the method is better than each of its other rows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from bridge_jax.config import Config, Stage, objectives, require

Changes = Mapping[str, Any]  # key of the config, without `config.` -> its value; None: the key is left out
PAPERS = ("fused_itc", "itm", "cycle")  # the losses of the paper's Table 4 that fuse pairs


class Grid(NamedTuple):
    """A table: where it comes from, its rows, and whether its rows are given the method's number of parameters."""

    source: str
    rows: Callable[[Config], Mapping[str, Changes]]  # of the experiment -> row -> what it changes
    matched: bool = False


def _design(cfg: Config) -> dict[str, Changes]:
    """The interaction layer. A row without attention is without the losses that read it."""
    words = [name for name in cfg.losses if "compared" in objectives.needs(name).passes]
    dropped: Changes = {f"losses.{name}": None for name in words}

    def alone(stage: Stage) -> Iterable[str]:
        return [name for name in stage.losses if set(objectives.needs(name).passes) <= {"unimodal"}]

    def pooled(stage: Stage) -> Iterable[str]:
        return [name for name in stage.losses if name not in (*words, "cycle")]

    return {
        "none": {"bridge.design": "none", "bridge.layers": 0, **_losses(cfg, alone), **dropped},
        "pooled": {"bridge.design": "pooled", **_losses(cfg, pooled), **dropped},
        "self_cross": {"bridge.design": "self_cross"},
        "cross": {"bridge.design": "cross"},
    }


def _placement(cfg: Config) -> dict[str, Changes]:
    return {name: {"bridge.placement": name} for name in ("after", "early", "middle", "staggered", "top")}


def _fused_losses(cfg: Config) -> dict[str, Changes]:
    """The fused losses of every stage that has one. All other losses stay."""
    kept = {
        "itc": ("fused_itc",),
        "itc + itm": ("fused_itc", "itm"),
        "itc + cycle": ("fused_itc", "cycle"),
        "all": PAPERS,
    }
    require(
        any(set(PAPERS) & set(stage.losses) for stage in cfg.run_stages),
        f"no stage of {', '.join(cfg.stage_order)} has one of {', '.join(PAPERS)}, so there is nothing to leave out",
    )

    def only(names: tuple[str, ...]) -> Callable[[Stage], Iterable[str]]:
        return lambda stage: (
            [*(name for name in stage.losses if name not in PAPERS), *names]
            if set(PAPERS) & set(stage.losses)
            else stage.losses
        )

    return {row: _losses(cfg, only(names)) for row, names in kept.items()}


def _layers(cfg: Config) -> dict[str, Changes]:
    """The number of layers: 2, 4 and 6 as in Table 1 for towers of 12 blocks and more, else 1, 2 and 3."""
    depth = min(cfg.vision.depth, cfg.text.depth)
    counts = (2, 4, 6) if depth >= 12 else tuple(count for count in (1, 2, 3) if count <= depth)
    require(len(counts) > 1, f"the shorter tower has {depth} block, so there is one number of layers and no grid")
    return {f"{count} layer{'s' * (count > 1)}": {"bridge.layers": count} for count in counts}


def _leak(cfg: Config) -> dict[str, Changes]:
    _need(cfg, "fused_itc")
    return {form: {"losses.fused_itc.form": form} for form in ("paper", "joint")}


def _mining(cfg: Config) -> dict[str, Changes]:
    """Where partners come from. A batch is ranked at every step, the split at four moments of the longest stage."""
    mining = [stage for stage in cfg.run_stages if objectives.mines(stage)]
    require(bool(mining), f"no stage of {', '.join(cfg.stage_order)} fuses wrong pairs, so none are mined")

    def batch(margins: tuple[float, float], ranks: tuple[int, int] = (0, 0)) -> Changes:
        low, high = margins
        return {
            "mining.source": "batch",
            "mining.refresh_steps": 0,
            "mining.ranks": ranks,
            "mining.margin_min": low,
            "mining.margin_max": high,
        }

    partners, longest = cfg.mining.partners, max(stage.steps for stage in mining)
    return {
        "random of the batch": batch((-3.0, 3.0)),  # cosines differ by 2 at most: all columns are in the band
        "the paper's band": batch((0.2, 0.5)),
        "hardest of the batch": batch((0.2, 0.5), (1, partners)),
        "the whole split": {
            "mining.source": "split",
            "mining.refresh_steps": max(1, longest // 4),
            "mining.ranks": (1, max(32, partners)),
        },
    }


def _need(cfg: Config, loss: str) -> None:
    there = any(loss in stage.losses for stage in cfg.run_stages)
    require(there, f"no stage of {', '.join(cfg.stage_order)} has the loss {loss}, so its rows would be alike")


def _losses(cfg: Config, kept: Callable[[Stage], Iterable[str]]) -> dict[str, Any]:
    """Return the losses that `kept` names for each stage. A stage without any trains on `itc`, for as many pairs."""
    return {f"stages.{stage.name}.losses": tuple(kept(stage)) or ("itc",) for stage in cfg.run_stages}


GRIDS = {
    "design": Grid("Table 5", _design, matched=True),
    "placement": Grid("Table 6, and behind both towers, as in the authors' code", _placement),
    "losses": Grid("Table 4", _fused_losses),
    "layers": Grid("Table 1", _layers),
    "leak": Grid("docs/method.md 5.1", _leak),
    "mining": Grid("docs/method.md 3.1", _mining),
}
