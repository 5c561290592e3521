"""Start runs, stop them, and compare their logs and parameters."""

import contextlib
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.data import pipeline, shapes
from bridge_jax.run import train
from bridge_jax.step import train_step
from bridge_jax.step.params import init_params, param_shapes
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import log
from bridge_jax.workdir.checkpoint import Checkpoints
from tools import prepare_data

CLOCK_METRICS = ("time", "train/train/pairs_per_second", "train/train/waiting_for_data", "train/pairs_per_second",
                "train/waiting_for_data")  # fmt: skip


build, _build_predict = (functools.lru_cache(maxsize=8)(make) for make in (train_step.build, build_predict))


def prepare_small_shapes(folder: Path, seed: int = 0) -> Path:
    """Write a small shapes set: 32 training scenes, 16 in each held-out split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "HELD_OUT_SCENES", 16)
        patch.setattr(shapes, "HELD_OUT_PAIRS", 8)
        prepare_data.prepare("shapes", str(folder), num_train=32, seed=seed)
    return folder


def run(cfg, workdir: Path) -> dict:
    """Train. Runs of this process with an equal config share the traced functions, which are pure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "build", build)
        patch.setattr(train, "build_predict", _build_predict)
        return train.run(cfg, str(workdir))


def whole(cfg, workdir: Path) -> tuple[Path, dict]:
    """Train without a stop. Return the workdir and the result. The tests' compilation cache stays in use."""
    folder = jax.config.jax_compilation_cache_dir
    result = run(cfg, workdir)
    jax.config.update("jax_compilation_cache_dir", folder)
    return workdir, result


def saved(cfg, workdir: Path) -> dict[str, np.ndarray]:
    """Write the checkpoint that a run of `cfg` could have left as its best, and return its parameters."""
    flat = {path: np.asarray(x) + np.float32(0.01) for path, x in paths.flatten(init_params(cfg)).items()}
    stage = cfg.run_stages[-1]
    with contextlib.closing(Checkpoints(workdir)) as saves:
        saves.save(1, stage.name, paths.unflatten(flat), None, cfg)
        saves.score(1, {"stage_index": float(len(cfg.stage_order) - 1), "unimodal_rsum": 1.0})
    return flat


def opened(cfg, head: str):
    """Return random parameters with open gates, and large weights in the bridge and in `head` (`heads/itm/out`)."""
    flat, draw = paths.flatten(init_params(cfg)), np.random.default_rng(0)
    for path, value in flat.items():
        if path.endswith("_gate"):
            flat[path] = value + 3.0
        elif path.startswith((head, "bridge")) and path.endswith("/kernel"):
            flat[path] = np.asarray(draw.normal(size=value.shape) * 0.5, np.float32)
    return jax.device_get(paths.unflatten(flat))


def parameters(workdir: Path, cfg, step: int) -> dict[str, np.ndarray]:
    """Return path -> parameter of a checkpoint."""
    saves = Checkpoints(workdir, read_only=True)
    return paths.flatten(saves.restore_params(step, param_shapes(cfg)))


def logged(workdir: Path) -> dict:
    """Return (step, name) -> value of all metrics that do not measure time. No metric may be logged twice."""
    entries = [
        {
            (entry["step"], name): value
            for name, value in entry.items()
            if name not in CLOCK_METRICS and not name.startswith("goodput/")
        }
        for entry in log.read(workdir / "metrics.jsonl")
    ]
    names = [key for entry in entries for key in entry if key[1] != "step"]
    assert len(names) == len(set(names)), "something was logged twice"
    return {key: value for entry in entries for key, value in entry.items()}


def assert_same(workdir: Path, whole: Path) -> None:
    """Compare parameters and log of two finished runs bit for bit."""
    mine, expected = logged(workdir), logged(whole)
    assert mine.keys() == expected.keys()
    assert [key for key in expected if mine[key] != expected[key]] == []
    saves = Checkpoints(whole, read_only=True)
    last = saves.latest()
    cfg = saves.config(last)
    params = parameters(workdir, cfg, last)
    for path, value in parameters(whole, cfg, last).items():
        np.testing.assert_array_equal(params[path], value, err_msg=path)


class Stopped(Exception):
    """Raised in place of a kill."""


def stop_at(monkeypatch, step, cfg):
    """Make the data raise Stopped when the batch of global step `step` (counted from 0) is drawn."""
    ends = np.cumsum([cfg.stages[name].steps for name in cfg.stage_order])
    real, drawing = pipeline.batches, {}
    real_train = pipeline.train

    def named(*arguments, **keywords):
        drawing["start"] = (
            int(ends[cfg.stage_order.index(keywords["seed_stream"])]) - cfg.stages[keywords["seed_stream"]].steps
        )
        return real_train(*arguments, **keywords)

    def batches(ds, start_step, data):
        with contextlib.closing(real(ds, start_step, data)) as source:
            for now, batch in enumerate(source, drawing["start"] + start_step):
                if now == step:
                    raise Stopped
                yield batch

    monkeypatch.setattr(pipeline, "train", named)
    monkeypatch.setattr(pipeline, "batches", batches)


def stopped_at(steps, cfg, workdir: Path, monkeypatch) -> dict:
    """Stop a run when each of `steps` is drawn, start it again each time, and return its final result."""
    for step in steps:
        with monkeypatch.context() as patch:
            stop_at(patch, step, cfg)
            with pytest.raises(Stopped):
                run(cfg, workdir)
    return run(cfg, workdir)
