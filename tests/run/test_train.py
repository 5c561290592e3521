"""The loop end to end on a small shapes set; a stopped and resumed run equals an undisturbed one."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.data import records
from bridge_jax.evals.scores import reranking
from bridge_jax.run import bad_step, lower_cache, origin, train
from bridge_jax.step import sharding, train_step
from bridge_jax.workdir import provenance, rankings
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta
from tests import runs
from tests.runs import Stopped, assert_same, logged, parameters, stop_at
from tools import replay

LAST = 12
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny(depth=2)
    settings.data.update(threads=1, prefetch_batches=1)  # so that a test can count what is read
    return config.parse(settings)


def test_all_stages_run_and_are_scored(whole, cfg):
    workdir, result = whole
    saves = Checkpoints(workdir, read_only=True)
    assert saves.latest() == LAST
    assert saves.meta(LAST).stage == "task"
    assert saves.meta(saves.best()).stage == "task"
    values = logged(workdir)
    for step in range(1, LAST + 1):
        assert values[step, "train/loss"] > 0
    assert {step for step, name in values if name == "eval/unimodal/rsum"} == {2, 4, 6, 8, 10, 12}
    assert (4, "train/fused_itc/loss") not in values
    assert (5, "train/fused_itc/loss") in values
    for name, value in result.items():
        assert values[LAST, f"final/{name}"] == value
    assert {f"val/{score}/text_to_image/r@1_low" for score in ("unimodal", "rerank")} <= result.keys()
    fitted = saves.config(saves.best()).evals["retrieval"].rerank_weight
    assert fitted == result["val/rerank/weight"]
    assert fitted in reranking.WEIGHTS


def test_a_run_stopped_anywhere_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    steps = (1, 3, 4, 6, 8, 11)  # before the first save, inside every stage, at both boundaries
    assert runs.stopped_at(steps, cfg, tmp_path, monkeypatch) == whole[1]
    assert_same(tmp_path, whole[0])
    starts = provenance.read(tmp_path)
    assert [start["step"] for start in starts] == sorted(start["step"] for start in starts)
    assert len(starts) == len(steps) + 1
    ((about, found),) = rankings.read(tmp_path)
    ((same, twin),) = rankings.read(whole[0])
    assert about == same == ("shapes", "val", Checkpoints(tmp_path, read_only=True).best(), about.data)
    for mine, theirs in zip(found.text_to_image, twin.text_to_image, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_only_prints_its_table_again(whole, cfg, monkeypatch):
    before = (whole[0] / "metrics.jsonl").read_text()
    stop_at(monkeypatch, 0, cfg)
    assert train.run(cfg, str(whole[0])) == whole[1]
    assert (whole[0] / "metrics.jsonl").read_text() == before


def test_the_fused_heads_start_as_the_unimodal_ones_in_the_first_stage_that_trains_them(cfg, tmp_path, monkeypatch):
    begun = {}
    real = runs.build

    def build(cfg, stage, first_step, mesh):
        stage_step = real(cfg, stage, first_step, mesh)

        def init(step, params):
            begun[stage.name] = jax.device_get(paths.flatten(params))
            return stage_step.init(step, params)

        return dataclasses.replace(stage_step, init=init)

    monkeypatch.setattr(train_step, "build", build)
    stop_at(monkeypatch, 9, cfg)
    with pytest.raises(Stopped):
        train.run(cfg, str(tmp_path))

    def copied(params):
        return [
            np.array_equal(params[f"heads/fused_{side}/linear/kernel"], params[f"heads/unimodal_{side}/linear/kernel"])
            for side in ("image", "text")
        ]

    assert {name: copied(params) for name, params in begun.items()} == {
        "stabilise": [False, False], "align": [True, True], "task": [False, False]
    }  # fmt: skip
    np.testing.assert_allclose(begun["align"]["heads/itm/scale"], np.exp(begun["align"]["heads/log_scale"]), rtol=1e-6)


def test_the_stages_train_what_they_say(cfg, tiny, tmp_path):
    settings = tiny(depth=2)
    settings.checkpoint.keep_last = 10
    settings.checkpoint.every_steps = 4
    settings.stage_order = ("stabilise", "align")
    cfg = config.parse(settings)
    train.run(cfg, str(tmp_path))
    first, last = parameters(tmp_path, cfg, 4), parameters(tmp_path, cfg, 8)
    moved = {path for path in first if not np.array_equal(first[path], last[path])}
    assert not any(path.startswith(("vision/patch", "vision/block_00", "text/block_00")) for path in moved)
    for part in ("vision/block_01/", "text/block_01/", "vision/norm/", "bridge/layer_0/", "heads/fused_image/"):
        assert any(path.startswith(part) for path in moved), part


def test_a_bad_number_stops_the_run_and_is_never_saved(cfg, tmp_path, monkeypatch):
    real = lower_cache.LowerCache.__call__
    seen = []

    def spoiled(self, index, generator):
        example = dict(real(self, index, generator))
        seen.append(index)
        if len(seen) > 16:  # the third batch of the stage
            example["lower_text"] = np.full_like(example["lower_text"], np.nan)
        return example

    monkeypatch.setattr(lower_cache.LowerCache, "__call__", spoiled)
    with pytest.raises(FloatingPointError, match=r"step 7 of stage 'align'.* is in output unimodal_text .*not applied"):
        runs.run(cfg, tmp_path)
    saves = Checkpoints(tmp_path, read_only=True)
    assert saves.latest() == 6
    assert all(np.isfinite(value).all() for value in parameters(tmp_path, cfg, 6).values())
    assert json.loads((tmp_path / "outcome.json").read_text())["cause"] == "bad_numbers"

    left = tmp_path / "bad_step_7"
    report, batch = bad_step.read(left)[1:]
    assert report["first_bad"] == "output unimodal_text"
    assert report["image_ids"] == batch.image_ids.tolist()
    assert np.isnan(batch.lower_text).all()
    assert replay.replay(left) == "output unimodal_text"
    np.savez(left / "batch.npz", **batch.arrays() | {"lower_text": np.zeros_like(batch.lower_text)})
    assert replay.replay(left) == ""


def test_another_config_is_refused_and_nothing_is_overwritten(whole, cfg):
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.is_file()}
    other = dataclasses.replace(cfg, seed=1, mining=dataclasses.replace(cfg.mining, partners=3))
    with pytest.raises(
        ConfigError, match=r"step 12 was made with a different config \(mining.partners: 2 -> 3; seed: 0 -> 1\)"
    ):
        train.run(other, str(whole[0]))
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.is_file()} == before


def test_other_records_are_refused_unless_they_may_change(whole, cfg, tmp_path):
    runs.prepare_small_shapes(tmp_path, seed=1)
    other = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data_dir=str(tmp_path)))
    before, now = (records.training_fingerprint(each.data) for each in (cfg, other))
    says = f"/12: it was trained on records with the fingerprint {before}, those in '{tmp_path}' have {now}: give"
    with pytest.raises(ConfigError, match=re.escape(says)):
        train.run(other, str(whole[0]))
    saves, mesh = Checkpoints(whole[0], read_only=True), sharding.make_mesh(cfg.mesh)
    may = dataclasses.replace(other, data=dataclasses.replace(other.data, may_change=True))
    found = paths.flatten(origin.resume(may, saves, 12, mesh))
    for path, value in parameters(whole[0], cfg, 12).items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_init_from_starts_from_the_best_parameters_of_another_run(whole, cfg):
    source = Checkpoints(whole[0], read_only=True)
    params = paths.flatten(
        origin.initial(dataclasses.replace(cfg, init_from=str(whole[0])), sharding.make_mesh(cfg.mesh))
    )
    best = parameters(whole[0], cfg, source.best())
    for path, value in best.items():
        np.testing.assert_array_equal(params[path], value, err_msg=path)
    with pytest.raises(ConfigError, match="is not there"):
        origin.initial(dataclasses.replace(cfg, init_from=str(whole[0] / "nothing")), sharding.make_mesh(cfg.mesh))


def test_a_checkpoint_says_what_it_is(whole, cfg):
    meta = Checkpoints(whole[0], read_only=True).meta(LAST)
    assert isinstance(meta, Meta)
    assert json.loads(json.dumps(dict(meta.config)))["bridge"]["placement"] == "middle"
    assert dataclasses.replace(Checkpoints(whole[0], read_only=True).config(LAST), evals=cfg.evals) == cfg
