"""Checkpoints against what was saved; the config's way to JSON and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError, as_json, migrations
from bridge_jax.workdir import checkpoint
from bridge_jax.workdir.checkpoint import Checkpoints

AWKWARD = np.array([np.pi, -0.0, 1e-45, 3.4e38, np.inf, np.nan], np.float32)


@pytest.fixture(scope="module")
def cfg(tiny):
    return config.parse(tiny())


def tree(seed):
    draw = np.random.default_rng(seed)
    return {
        "a": {"kernel": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32), "awkward": jnp.asarray(AWKWARD)},
        "b": {"scale": jnp.asarray(draw.normal(), jnp.float32), "half": jnp.asarray(draw.normal(size=5), jnp.bfloat16)},
    }


def save(saves, cfg, step, rsum=None, stage_index=0):
    name = cfg.stage_order[stage_index]
    saves.save(step, name, tree(step), {"count": jnp.int32(step), "mu": tree(1000 + step)}, cfg)
    if rsum is not None:
        saves.score(step, {"stage_index": float(stage_index), "unimodal_rsum": rsum})


def bits(leaf):
    return np.asarray(leaf).tobytes()


def test_what_is_restored_is_what_was_saved_bit_for_bit(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 7, rsum=100.5)
    saves.close()
    again = Checkpoints(tmp_path, read_only=True)
    params = again.restore_params(7, jax.eval_shape(lambda: tree(0)))
    assert jax.tree.map(bits, params) == jax.tree.map(bits, tree(7))
    opt_state = again.restore_opt_state(7, {"count": jnp.int32(0), "mu": tree(0)})
    assert jax.tree.map(bits, opt_state) == jax.tree.map(bits, {"count": jnp.int32(7), "mu": tree(1007)})
    meta = again.meta(7)
    assert (meta.step, meta.stage) == (7, "stabilise")
    assert again.scores(7) == {"stage_index": 0.0, "unimodal_rsum": 100.5}


def test_what_is_saved_is_what_was_there_when_save_returned(cfg, tmp_path):
    saves, params = Checkpoints(tmp_path), {"a": jnp.arange(1000.0)}
    saves.save(1, "stabilise", params, {"count": jnp.int32(0)}, cfg)
    params["a"].delete()  # as the training step does with a donated state
    assert bits(saves.restore_params(1, {"a": jnp.zeros(1000)})["a"]) == bits(np.arange(1000, dtype=np.float32))
    saves.close()


def test_the_last_n_and_the_best_are_kept(cfg, tmp_path):
    saves = Checkpoints(tmp_path, keep_last=2)
    for step, rsum in ((1, 50.0), (2, 80.0), (3, None), (4, 70.0), (5, None), (6, 60.0)):
        save(saves, cfg, step, rsum)
    saves.close()
    again = Checkpoints(tmp_path, read_only=True)
    assert again.steps() == [2, 5, 6]
    assert (again.best(), again.latest()) == (2, 6)


def test_the_best_is_known_while_it_is_still_being_saved(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1, 50.0)
    save(saves, cfg, 2, 60.0)
    assert saves.best() == 2
    saves.close()


def test_a_worse_score_of_a_later_stage_is_better(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1, 590.0, stage_index=0)
    save(saves, cfg, 2, 10.0, stage_index=1)
    save(saves, cfg, 3, 5.0, stage_index=1)
    assert saves.best() == 2
    saves.close()


def test_without_scores_the_newest_is_the_best_and_without_checkpoints_there_is_none(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    assert saves.best() is None
    assert saves.latest() is None
    save(saves, cfg, 1)
    save(saves, cfg, 2)
    assert saves.best() == 2
    saves.close()


def test_what_was_fitted_to_a_checkpoint_is_in_its_config_and_not_in_its_score(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1, 50.0)
    save(saves, cfg, 2, 60.0)
    saves.fit(2, "retrieval", {"rerank_weight": 11.5})
    saves.close()
    again = Checkpoints(tmp_path, read_only=True)
    assert (again.best(), again.config(1)) == (2, cfg)
    fitted = dataclasses.replace(cfg.evals["retrieval"], rerank_weight=11.5)
    assert again.config(2) == dataclasses.replace(cfg, evals={**cfg.evals, "retrieval": fitted})
    saves = Checkpoints(tmp_path)
    saves.fit(2, "retrieval", {})  # a later run of the command that asks for no fit
    assert saves.config(2) == cfg
    saves.close()


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"a": jnp.zeros(3), "c": jnp.zeros(1)}, "'b' is only in the checkpoint"),
        ({"a": jnp.zeros(3), "b": jnp.zeros(2), "c": jnp.zeros(1)}, "'c' is only in this config's model"),
        ({"a": jnp.zeros(4), "b": jnp.zeros(2)}, r"'a' has shape \(3,\); this config's model expects \(4,\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(cfg, tmp_path, like, says):
    saves = Checkpoints(tmp_path)
    saves.save(1, "stabilise", {"a": jnp.zeros(3), "b": jnp.zeros(2)}, {"count": jnp.int32(0)}, cfg)
    with pytest.raises(ConfigError, match=says):
        saves.restore_params(1, like)
    saves.close()


def test_an_older_schema_is_migrated_and_a_newer_one_refused(cfg, tmp_path, monkeypatch):
    older = as_json.as_dict(cfg)
    del older["bad_steps"], older["data"]["broken_limit"], older["stages"]["stabilise"]["optimizer"]
    real = checkpoint.as_dict
    monkeypatch.setattr(checkpoint, "as_dict", lambda part: older if part is cfg else real(part))
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1)
    monkeypatch.setattr(checkpoint, "SCHEMA", migrations.SCHEMA + 1)
    save(saves, cfg, 2)
    saves.close()
    again = Checkpoints(tmp_path, read_only=True)
    assert again.config(1).data.broken_limit == 0.0
    assert again.config(1).stages == cfg.stages
    assert again.meta(1).schema == migrations.SCHEMA
    message = f"/2: checkpoint schema {migrations.SCHEMA + 1}, this code reads 2 to {migrations.SCHEMA}: newer"
    with pytest.raises(ConfigError, match=message):
        again.meta(2)


def test_a_folder_without_checkpoints_is_refused_and_not_made(tmp_path):
    with pytest.raises(ConfigError, match=r"'.*/run/checkpoints' is not there"):
        Checkpoints(tmp_path / "run", read_only=True)
    assert not (tmp_path / "run").exists()


def test_saving_and_opening_say_nothing(cfg, tmp_path, caplog):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1)
    saves.close()
    Checkpoints(tmp_path, read_only=True).best()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_config_comes_back(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    save(saves, cfg, 1)
    assert saves.config(1) == cfg
    assert as_json.differences(saves.meta(1).config, cfg) == []
    saves.close()


def test_a_config_of_another_version_names_the_key(cfg, tmp_path, monkeypatch):
    saves = Checkpoints(tmp_path)
    real = checkpoint.as_dict
    monkeypatch.setattr(checkpoint, "as_dict", lambda part: real(part) | {"sed": 3} if part is cfg else real(part))
    save(saves, cfg, 1)
    with pytest.raises(
        ConfigError, match=r"/1: config.sed is not a config key; nearest: 'seed'; another version of the code"
    ):
        saves.config(1)
    saves.close()


def test_a_checkpoint_without_optimizer_state_is_one_to_start_from(cfg, tmp_path):
    saves = Checkpoints(tmp_path)
    saves.save(3, "stabilise", tree(3), None, cfg)
    saves.close()
    again = Checkpoints(tmp_path, read_only=True)
    assert bits(again.restore_params(3, tree(0))["a"]["kernel"]) == bits(tree(3)["a"]["kernel"])
    with pytest.raises(ConfigError, match=f"/3 has no opt_state, .* --config.init_from={tmp_path} and a --workdir"):
        again.restore_opt_state(3, {"count": jnp.int32(0)})
