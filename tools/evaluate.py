"""Score a checkpoint on any prepared split: recall in both directions with 95 % intervals, unimodal and reranked.

    python -m tools.evaluate --workdir=runs/shapes --split=val
    python -m tools.evaluate --workdir=runs/coco --checkpoint=latest --split=test --rerank --json=coco_test.json

The model and all settings are those of the checkpoint's own config. Exit code 2: it cannot be done, with one line that
says why; 3: a score is NaN.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from absl import flags

from bridge_jax import command_line, sharding, terminal
from bridge_jax import step as steps
from bridge_jax.checkpoint import Checkpoints
from bridge_jax.checkpoint_meta import Meta
from bridge_jax.config import Config, ConfigError, Mesh
from bridge_jax.config_json import as_dict
from bridge_jax.evals.retrieval import Evaluator

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, or `best` or `latest`.")
_SPLIT = flags.DEFINE_string("split", None, "A split of the data set, such as test.")
_RERANK = flags.DEFINE_bool("rerank", False, "Also let the bridge rerank the best unimodal candidates.")
_JSON = flags.DEFINE_string("json", "", "Write the numbers, the config and the step to this file.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where the prepared data lies, if not where training found it.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocabulary, if not where training found it.")


def evaluate(saves: Checkpoints, step: int, split: str, *, rerank: bool, **data: str) -> tuple[dict[str, float], dict]:
    """Return the metrics of `split` and what they are of, as JSON can hold it. `data` replaces keys of config.data."""
    meta, cfg = saves.meta(step), saves.config(step)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data))
    if rerank and cfg.bridge.design == "none":
        raise ConfigError("--rerank: config.bridge.design is 'none', there is no bridge to rerank with")
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))  # of this machine, whatever it was trained on
    params = saves.restore_params(step, steps.abstract_params(cfg, mesh))
    with terminal.progress() as bar, terminal.task(bar, f"evaluating {split}") as progress:
        metrics = Evaluator(cfg, steps.build_predict(cfg, mesh)).run(params, split, rerank=rerank, progress=progress)
    return metrics, _record(meta, cfg, split, metrics)


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
    metrics, record = evaluate(saves, step, split, rerank=_RERANK.value, **given)
    terminal.recall_table(metrics, f"{record['dataset']}/{split}, step {step}", time.monotonic() - started)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
