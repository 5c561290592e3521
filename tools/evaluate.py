"""Score a checkpoint on any prepared split, as its last stage was scored: recall, accuracy, or captions.

    python -m tools.evaluate --workdir=runs/shapes --split=val
    python -m tools.evaluate --workdir=runs/coco --checkpoint=latest --split=test --rerank --json=coco_test.json
    python -m tools.evaluate --workdir=runs/vqav2 --split=test --results=vqav2_test.json
    python -m tools.evaluate --workdir=runs/nlvr2 --split=test1 --results=nlvr2_test1.csv
    python -m tools.evaluate --workdir=runs/caption --config=configs/nocaps.py --split=val
    python -m tools.evaluate --workdir=runs/coco --config=configs/msrvtt.py --split=test --rerank
    python -m tools.evaluate --workdir=runs/coco --config=configs/compositionality.py --evaluator=compositionality \
        --split=test
    python -m tools.evaluate --workdir=runs/coco --config=configs/zero_shot.py --evaluator=zero_shot --split=test

`--results` writes the answer to every question, the judgement of every statement or the caption of every picture, in
the format that the evaluation servers of VQA and COCO captions and NLVR2's own score read. It scores nothing, so it
works on a test split without answers.

The model and all settings come from the checkpoint's own config. `--config` names another config, to evaluate on its
data set as it does: its data.dataset, data.data_dir, data.eval_split and evaluator replace the checkpoint's, and
nothing else. `--evaluator` names an evaluator of that config, where another one watched the checkpoint's stage. Recall
is that of the unimodal order; --rerank adds that of the reranked one. Every number has its 95 % interval. --rerank also
leaves the rankings in the workdir (rankings/DATASET_SPLIT.npz), which tools.report shows. Exit code 2: it cannot be
done, with one line that says why; 3: a score is NaN.
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
from bridge_jax.data import records
from bridge_jax.evals import retrieval
from bridge_jax.run import command_line, finish, origin, terminal
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta, check_answers

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, `best` or `latest`.")
_SPLIT = flags.DEFINE_string("split", None, "Split of the data set to score, such as test.")
_RERANK = flags.DEFINE_bool("rerank", False, "Also rerank the best unimodal candidates with the bridge.")
_CONFIG = command_line.define_config(
    "Another config to take the data set and the evaluator from, such as configs/msrvtt.py."
)
_EVALUATOR = flags.DEFINE_string(
    "evaluator", "", "Evaluator of --config to score by; without it, the one that watched the checkpoint's last stage."
)
_JSON = flags.DEFINE_string("json", "", "File to write the numbers, the config and the step to.")
_RESULTS = flags.DEFINE_string(
    "results", "", "File to write the answers, judgements or captions to, without scoring them."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of the prepared data; without it, that of training or of --config."
)
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocabulary file; without it, that of training.")


def evaluate(
    saves: Checkpoints,
    step: int,
    split: str,
    *,
    rerank: bool,
    other: Config | None = None,
    by: str = "",
    **data: str,
) -> tuple[types.Table, dict]:
    """Return the table of `split`, and a record for JSON: the split, the step, the data of both, metrics and config.

    `other` is the config whose data set and evaluator replace the checkpoint's, `by` an evaluator of it other than that
    of the checkpoint's stage, `data` replaces keys of config.data.
    """
    meta, cfg, name = _described(saves, step, other, data, by)
    if rerank and name != "retrieval":
        raise ConfigError(f"--rerank: checkpoint {step} is of stage {meta.stage!r}, which {name} scores; leave it out")
    if rerank and cfg.bridge.design == "none":
        raise ConfigError(
            "--rerank: config.bridge.design is 'none', so there is no bridge to rerank with; leave it out"
        )
    if by:  # the run was not checked for it when it began
        asked = dataclasses.replace(evaluators.settings(cfg, by), splits=(split,))
        evaluators.find(by).check(dataclasses.replace(cfg, evals={**cfg.evals, by: asked}))
    params, evaluator = _restored(saves, step, cfg, name)
    with terminal.progress() as bar, terminal.task(bar, f"evaluating {split}") as progress:
        if isinstance(evaluator, retrieval.Evaluator) and not rerank:
            metrics = evaluator.run(params, split, rerank=False, progress=progress)
        elif isinstance(evaluator, evaluators.LeavesRankings):
            metrics, ranked = evaluator.ranked(params, split, progress)
            finish.keep(Path(saves.folder).parent, cfg, split, step, ranked)
        else:
            metrics = evaluator.final(params, split, progress)
    return evaluators.find(name).table(metrics), _record(meta, cfg, split, metrics)


def results(saves: Checkpoints, step: int, split: str, *, other: Config | None = None, **data: str) -> tuple[str, int]:
    """Return the text of an official results file for `split`, and the number of results in it.

    A result is the model's answer to a question, its judgement of a statement or its caption of a picture.
    """
    meta, cfg, name = _described(saves, step, other, data)
    if not issubclass(evaluators.find(name), evaluators.WritesResults):
        raise ConfigError(
            f"--results: checkpoint {step} is of stage {meta.stage!r}, which {name} scores and writes no results for"
        )
    params, evaluator = _restored(saves, step, cfg, name)
    with terminal.progress() as bar, terminal.task(bar, f"reading {split}") as progress:
        return evaluator.results(params, split, progress)


def _described(
    saves: Checkpoints, step: int, other: Config | None, data: Mapping[str, str], by: str = ""
) -> tuple[Meta, Config, str]:
    """Return the metadata of a checkpoint, its config, and the evaluator: `by`, or that which watched its stage."""
    meta, cfg = saves.meta(step), saves.config(step)
    name = by or objectives.evaluator_of(cfg.stages[meta.stage])
    if other is not None:
        replaced = {key: getattr(other.data, key) for key in ("dataset", "data_dir", "eval_split")}
        data, settings = {**replaced, **data}, {name: evaluators.settings(other, name)}
        cfg = dataclasses.replace(cfg, evals={**cfg.evals, **settings})
    return meta, dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data)), name


def _restored(saves: Checkpoints, step: int, cfg: Config, name: str) -> tuple[types.Params, Any]:
    """Return the parameters and the evaluator. Raises ConfigError where the data set lists other answers."""
    check_answers(saves.meta(step), origin.answers(cfg), f"{saves.folder}/{step}")
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))  # of this machine, whichever mesh trained it
    params = saves.restore_params(step, abstract_params(cfg, mesh))
    return params, evaluators.build(name, cfg, build_predict(cfg, mesh, name))


def _record(meta: Meta, cfg: Config, split: str, metrics: dict[str, float]) -> dict[str, Any]:
    record = {"dataset": cfg.data.dataset, "split": split, "data": records.fingerprint(cfg.data, split)}
    record |= {"step": meta.step, "stage": meta.stage, "trained_on": meta.data}
    return record | {"metrics": metrics, "config": as_dict(cfg)}


def main(argv: list[str]) -> None:
    """Print the table and write the JSON, or write the results file."""
    del argv
    workdir, split = command_line.required(_WORKDIR), command_line.required(_SPLIT)
    started = time.monotonic()
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose(_CHECKPOINT.value)
    data = {name: value for name, value in data.items() if value}
    other = None if _CONFIG.value is None else command_line.read_config(_CONFIG)
    if _EVALUATOR.value and other is None:
        raise ConfigError(f"--evaluator: give --config too, a config that has config.evals.{_EVALUATOR.value}")
    if _RESULTS.value:
        lines, count = results(saves, step, split, other=other, **data)
        Path(_RESULTS.value).write_text(lines, encoding="utf-8")
        terminal.say(f"{count} results of {split}, step {step}: {_RESULTS.value}")
        return
    table, record = evaluate(saves, step, split, rerank=_RERANK.value, other=other, by=_EVALUATOR.value, **data)
    terminal.table(table, f"{record['dataset']}/{split}, step {step}", time.monotonic() - started)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
