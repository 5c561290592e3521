"""Score a checkpoint on any prepared split, as its last stage was scored: recall, accuracy, or captions.

    python -m tools.evaluate --workdir=runs/shapes --split=val
    python -m tools.evaluate --workdir=runs/coco --checkpoint=latest --split=test --rerank --json=coco_test.json
    python -m tools.evaluate --workdir=runs/vqav2 --split=test --results=vqav2_test.json
    python -m tools.evaluate --workdir=runs/nlvr2 --split=test1 --results=nlvr2_test1.csv
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val
    python -m tools.evaluate --workdir=runs/coco --config=configs/msrvtt.py --split=test --rerank

`--results` writes the answer to every question, the judgement of every statement or the caption of every picture, as
the evaluation servers of VQA and COCO captions and NLVR2's own score take them, and scores nothing: a test split need
have nothing to score with.

The model and all settings are those of the checkpoint's own config. `--config` scores it on the data set of another
one, as that one evaluates: its data.dataset, data.data_dir, data.eval_split and evaluator replace the checkpoint's, and
nothing else. Recall is of the unimodal order, with --rerank of the reranked one too; every number has its 95 %
interval. Exit code 2: it cannot be done, with one line that says why; 3: a score is NaN.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from bridge_jax import types
from bridge_jax.config import Config, ConfigError, Mesh, evaluators, objectives
from bridge_jax.config.as_json import as_dict
from bridge_jax.run import command_line, origin, terminal
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta, check_answers

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, or `best` or `latest`.")
_SPLIT = flags.DEFINE_string("split", None, "A split of the data set, such as test.")
_RERANK = flags.DEFINE_bool("rerank", False, "Also let the bridge rerank the best unimodal candidates.")
_CONFIG = command_line.define_config("Another config, whose data set and evaluator count, such as configs/msrvtt.py.")
_JSON = flags.DEFINE_string("json", "", "Write the numbers, the config and the step to this file.")
_RESULTS = flags.DEFINE_string("results", "", "Only answer, judge or caption, and write what is said to this file.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where the prepared data lies, if not where training or --config says.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocabulary, if not where training found it.")


def evaluate(
    saves: Checkpoints, step: int, split: str, *, rerank: bool, other: Config | None = None, **data: str
) -> tuple[types.Table, dict]:
    """Return the table of `split` and what it is of, as JSON can hold it.

    `other` is the config whose data set and evaluator replace the checkpoint's, `data` replaces keys of config.data.
    """
    meta, cfg, name = _of(saves, step, other, data)
    if rerank and name != "retrieval":
        raise ConfigError(f"--rerank: checkpoint {step} is of stage {meta.stage!r}, which {name} scores: leave it out")
    if rerank and cfg.bridge.design == "none":
        raise ConfigError("--rerank: config.bridge.design is 'none', there is no bridge to rerank with")
    params, evaluator = _restored(saves, step, cfg, name)
    with terminal.progress() as bar, terminal.task(bar, f"evaluating {split}") as progress:
        if name == "retrieval" and not rerank:
            metrics = evaluator.run(params, split, rerank=False, progress=progress)
        else:
            metrics = evaluator.final(params, split, progress)
    return evaluators.module(name).table(metrics), _record(meta, cfg, split, metrics)


def results(saves: Checkpoints, step: int, split: str, *, other: Config | None = None, **data: str) -> tuple[str, int]:
    """Return what the model says of every question, statement or picture of `split`, as its official score takes it.

    As the text of the file, and how many there are.
    """
    meta, cfg, name = _of(saves, step, other, data)
    if not hasattr(evaluators.module(name).Evaluator, "results"):
        raise ConfigError(f"--results: checkpoint {step} is of stage {meta.stage!r}, which has nothing to say")
    params, evaluator = _restored(saves, step, cfg, name)
    with terminal.progress() as bar, terminal.task(bar, f"reading {split}") as progress:
        return evaluator.results(params, split, progress)


def _of(saves: Checkpoints, step: int, other: Config | None, data: Mapping[str, str]) -> tuple[Meta, Config, str]:
    """Return what a checkpoint says of itself, its config, and the evaluator that watched its stage."""
    meta, cfg = saves.meta(step), saves.config(step)
    name = objectives.watcher(cfg.stages[meta.stage])
    if other is not None:
        asked = {key: getattr(other.data, key) for key in ("dataset", "data_dir", "eval_split")}
        data, settings = {**asked, **data}, {name: evaluators.settings(other, name)}
        cfg = dataclasses.replace(cfg, evals={**cfg.evals, **settings})
    return meta, dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data)), name


def _restored(saves: Checkpoints, step: int, cfg: Config, name: str) -> tuple[types.Params, Any]:
    """Return the parameters and the evaluator. Raises ConfigError where the data lists other answers."""
    check_answers(saves.meta(step), origin.answers(cfg), f"{saves.folder}/{step}")
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))  # of this machine, whatever it was trained on
    params = saves.restore_params(step, abstract_params(cfg, mesh))
    return params, evaluators.build(name, cfg, build_predict(cfg, mesh, name))


def _record(meta: Meta, cfg: Config, split: str, metrics: dict[str, float]) -> dict[str, Any]:
    what = {"dataset": cfg.data.dataset, "split": split, "step": meta.step, "stage": meta.stage}
    return what | {"metrics": metrics, "config": as_dict(cfg)}


def main(argv: list[str]) -> None:
    """Print the table and write the JSON."""
    del argv
    workdir, split = command_line.required(_WORKDIR), command_line.required(_SPLIT)
    started = time.monotonic()
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose(_CHECKPOINT.value)
    given = {name: value for name, value in data.items() if value}
    other = None if _CONFIG.value is None else command_line.read_config(_CONFIG)
    if _RESULTS.value:
        said, count = results(saves, step, split, other=other, **given)
        Path(_RESULTS.value).write_text(said, encoding="utf-8")
        terminal.say(f"{count} results of {split}, step {step}: {_RESULTS.value}")
        return
    table, record = evaluate(saves, step, split, rerank=_RERANK.value, other=other, **given)
    terminal.table(table, f"{record['dataset']}/{split}, step {step}", time.monotonic() - started)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
