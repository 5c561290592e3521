"""A workdir as a finished run leaves it, written by the code that runs write theirs with, without training."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from bridge_jax.config import Config
from bridge_jax.evals.scores import rankings as ranked
from bridge_jax.evals.scores import reranking
from bridge_jax.workdir import outcome
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.log import RunLog
from bridge_jax.workdir.rankings import About
from tests import tiny

STEPS = 10  # of the only stage, `train`
ABOUT = About("shapes", "val", STEPS, "")


def metrics(step: int) -> dict[str, float]:
    """Return the metrics of training at a step."""
    return {"train/loss": 4.0 / step, "train/itc/loss": 2.0 / step, "train/gate/layer_0/image": 0.25,
            "train/gate/layer_0/text": 0.5, "train/odd": float("nan")}  # fmt: skip


def recall(split: str = "val") -> dict[str, float]:
    """Return final recall: 40 % [30, 50] by the embeddings and 60 % [50, 70] reranked, and of one kind of caption."""
    found = {f"final/{split}/rerank_gain/text_to_image/r@1{end}": value
             for end, value in (("", 20.0), ("_low", 5.0), ("_high", 35.0))}  # fmt: skip
    for score, at in (("unimodal", 40.0), ("rerank", 60.0)):
        for direction in ("text_to_image", "image_to_text"):
            name = f"final/{split}/{score}/{direction}"
            found |= {f"{name}/r@1": at, f"{name}/r@1_low": at - 10, f"{name}/r@1_high": at + 10}
            found |= {f"{name}/r@5": 90.0, f"{name}/r@10": 100.0, f"{name}/median_rank": 2.0}
        found[f"final/{split}/{score}/text_to_image/relation/r@1"] = at + 5
        found[f"final/{split}/{score}/rsum"] = 500.0
    return found


def rankings(images: int, captions: int = 2, k: int = 4) -> ranked.Rankings:
    """Return rankings by random scores, in which the true pair is likely to be good. Photos are numbered as rows."""
    draw, ids = np.random.default_rng(0), np.arange(images)
    owners = np.repeat(ids, captions)
    true = owners[:, None] == ids
    cosines = np.clip(0.2 * true + draw.normal(scale=0.2, size=true.shape), -1, 1).astype(np.float32)
    fused = (2.0 * true + draw.normal(size=true.shape)).astype(np.float32)
    candidates = reranking.Candidates(*reranking.best(cosines, k), fused)
    return ranked.rankings(candidates, cosines, 10.0, 1.0, owners, ids)


def workdir(folder: Path, *, steps: int = STEPS, cfg: Config | None = None, params: Any = None, **sections) -> Path:
    """Write the workdir of a run that made `steps` steps of ten, with `sections` of the config changed.

    `cfg` replaces the config, `params` the parameters, which are of no model otherwise.
    """
    folder.mkdir()
    cfg = cfg or tiny.config(**sections)
    params = {"kernel": np.zeros(1)} if params is None else params
    stage = cfg.stage_order[-1]
    run = outcome.Outcome(folder)
    run.begin()
    with RunLog(folder) as log, contextlib.closing(Checkpoints(folder)) as saves:
        for step in range(2, steps + 1, 2):
            log.write(step, metrics(step))
        saves.save(steps, stage, params, None, cfg)
        saves.wait()
        if steps == STEPS:
            log.write(steps, recall())
    run.stage, run.step = stage, steps
    with run:
        run.secs = {"start": 2.0, "train": 6.0, "save": 2.0}
    return folder
