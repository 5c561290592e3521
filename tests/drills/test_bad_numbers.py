"""Runs that skip bad steps, and runs on partly broken data: both are counted, exact after a stop, and limited."""

import dataclasses
import json

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.run import bad_step, lower_cache
from bridge_jax.workdir import broken_log
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import runs
from tests.data import bad_inputs
from tests.runs import assert_same, logged, parameters
from tools import replay

pytestmark = pytest.mark.usefixtures("keep_compilation_cache")
SPOILED = 5  # the record whose states are not numbers


@pytest.fixture
def spoiled(monkeypatch):
    """Overwrite the cached states of one photo with NaN."""
    real = lower_cache.LowerCache.__call__

    def call(self, index, generator):
        example = dict(real(self, index, generator))
        if index == SPOILED:
            example["lower_text"] = np.full_like(example["lower_text"], np.nan)
        return example

    monkeypatch.setattr(lower_cache.LowerCache, "__call__", call)


def skipping(tiny, **changes):
    """Return the config of a run that skips bad steps: two epochs of `align`; a loss above the last two is bad."""
    settings = tiny()
    settings.bad_steps.update(dict(action="skip", budget=12, spike_sigma=0.1, spike_window=2) | changes)
    settings.stages.align.update(steps=8, learning_rate=0.0005, losses=("itc",))
    settings.stage_order = ("align",)
    settings.checkpoint.update(every_steps=1, keep_last=20)
    settings.evals.retrieval.update(every_steps=100, splits=())
    return config.parse(settings)


def test_bad_steps_are_skipped_within_the_budget_and_exactly_so_after_every_stop(tiny, spoiled, tmp_path, monkeypatch):
    cfg = skipping(tiny)
    runs.run(cfg, tmp_path / "whole")
    values = logged(tmp_path / "whole")
    skipped = {step for step, name in values if name == "train/skipped"}
    reports = {step: bad_step.read(tmp_path / "whole" / f"bad_step_{step}")[1] for step in skipped}
    spoiled_steps = {step for step, report in reports.items() if report["first_bad"] == "output unimodal_text"}
    spikes = {step for step, report in reports.items() if report["first_bad"].startswith("the loss, a spike above")}
    assert skipped == spikes | spoiled_steps
    assert spikes
    assert len(spoiled_steps) == 2
    states = {step: parameters(tmp_path / "whole", cfg, step) for step in range(1, 9)}
    for step in range(2, 9):
        moved = any(not np.array_equal(value, states[step - 1][path]) for path, value in states[step].items())
        assert moved == (step not in skipped), step
    # Without a save between them, the step after a bad one is dispatched before that one is read, and once more then.
    rarely = dataclasses.replace(cfg, checkpoint=config.Checkpoint(every_steps=4, keep_last=2))
    runs.stopped_at((5,), rarely, tmp_path / "stopped", monkeypatch)
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    spike = min(spikes)
    assert replay.replay(tmp_path / "stopped" / f"bad_step_{spike}") == reports[spike]["first_bad"]


def test_more_than_the_budget_stops_the_run(tiny, spoiled, tmp_path):
    cfg = skipping(tiny, budget=0, spike_sigma=0.0)
    with pytest.raises(FloatingPointError, match=r"step (\d) of stage 'align'.*1 bad steps exceed .*budget, 0: l"):
        runs.run(cfg, tmp_path)
    assert json.loads((tmp_path / "outcome.json").read_text())["cause"] == "bad_numbers"
    more = dataclasses.replace(cfg, bad_steps=dataclasses.replace(cfg.bad_steps, budget=2))
    runs.run(more, tmp_path)
    assert Checkpoints(tmp_path, read_only=True).latest() == 8


def photos(tiny, small_shapes, folder, broken):
    """Return the config of one epoch of `align` over 200 photos, so many of them broken, and the broken names."""
    names = dict(list(bad_inputs.BROKEN.items())[:broken])
    raw = bad_inputs.raw_folder(folder / "raw", 200 - broken, names, held_out=16)
    bad_inputs.prepare_unchecked(folder / "data", raw)
    settings = tiny()
    settings.data.update(
        dataset="flickr8k",
        data_dir=str(folder / "data"),
        vocabulary=str(next(small_shapes.rglob(prepared.VOCABULARY))),
    )
    settings.stages.stabilise.steps = 25
    settings.stages.align.update(group_examples=1, steps=25)
    settings.stage_order = ("stabilise", "align")
    settings.checkpoint.every_steps = 7
    settings.evals.retrieval.update(every_steps=100, splits=())
    return config.parse(settings), names


def entries(workdir):
    lines = (workdir / broken_log.FILE).read_text().splitlines()
    return [(entry["step"], entry["file"]) for entry in map(json.loads, lines)]


def test_a_half_percent_broken_is_trained_around_and_exactly_so_after_every_stop(
    tiny, small_shapes, tmp_path, monkeypatch, capsys
):
    cfg, names = photos(tiny, small_shapes, tmp_path, 1)
    runs.run(cfg, tmp_path / "whole")
    ((step, file),) = entries(tmp_path / "whole")
    assert {file} == names.keys()
    assert 1 <= step <= 25
    assert f"step {step}: replaced a broken example, {file}: " in capsys.readouterr().out
    assert logged(tmp_path / "whole")[50, "train/broken_data"] == 1
    runs.stopped_at((step, 30), cfg, tmp_path / "stopped", monkeypatch)
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    assert entries(tmp_path / "stopped") == entries(tmp_path / "whole")


def test_five_percent_broken_stops_the_run_with_the_list(tiny, small_shapes, tmp_path):
    cfg, names = photos(tiny, small_shapes, tmp_path, 10)
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"more than 1.00% of 200 training records are broken: .*: .*; .*: "
        ) as caught:
            runs.run(cfg, tmp_path / "run")
        listed = entries(tmp_path / "run")
        assert len(listed) >= 3
        assert {file for _, file in listed} <= names.keys()
        assert all(file in str(caught.value) for _, file in listed[:5])
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["exit_code"] == 2
    allowed = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, broken_limit=0.05))
    runs.run(allowed, tmp_path / "run")
    assert {file for _, file in entries(tmp_path / "run")} == names.keys()
