"""Damaged checkpoints: the damage is named, the newest whole checkpoint is used, and no wrong state is read."""

import os
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.outcome import StorageError
from tests.workdir.test_checkpoint import bits, save, tree


@pytest.fixture(scope="module")
def cfg(tiny):
    return config.parse(tiny())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def two(cfg, tmp_path_factory):
    """Return a workdir with the checkpoints 1 (the better) and 2."""
    folder = tmp_path_factory.mktemp("two")
    saves = Checkpoints(folder)
    save(saves, cfg, 1, 80.0)
    save(saves, cfg, 2, 70.0)
    saves.close()
    return folder


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: flip(a_file(f / "opt_state")), "opt_state/.* has changed since it was written"),
        (lambda f: os.truncate(a_file(f / "params"), 10), "params/.* has 10 bytes, but"),
        (lambda f: shutil.rmtree(f / "opt_state"), "opt_state/.* is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: flip(f / "manifest.json"), "manifest.json is damaged"),
        (lambda f: shutil.copy(f / "meta" / "metadata", f / "meta" / "more"), "meta/more was added"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_is_used(two, tmp_path, caplog, damage, says):
    shutil.copytree(two, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "2")
    saves = Checkpoints(tmp_path / "run", read_only=True)
    assert saves.latest() == 1
    assert re.search(f"checkpoint .*/2 is damaged: {says}.*; going back to checkpoint 1", caplog.text)
    with pytest.raises(StorageError, match=f"/2 is damaged: {says}"):
        saves.restore_params(2, jax.eval_shape(lambda: tree(0)))
    with pytest.raises(StorageError, match=f"/2 is damaged: {says}"):
        saves.restore_opt_state(2, {"count": jnp.int32(0), "mu": tree(0)})
    damage(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(StorageError, match=r"/2 is damaged: .*/1 is damaged: .* No other is left"):
        Checkpoints(tmp_path / "run", read_only=True).latest()


def test_a_damaged_best_is_not_the_best(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    assert Checkpoints(tmp_path / "run", read_only=True).best() == 1
    flip(a_file(tmp_path / "run" / "checkpoints" / "1"))
    assert Checkpoints(tmp_path / "run", read_only=True).best() == 2


def test_whatever_byte_is_flipped_no_other_state_is_read(two, tmp_path):
    """For every file of a checkpoint: either the damage is named, or the saved state is restored."""
    shutil.copytree(two, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "2"
    harmless = set()
    for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        flip(path)
        saves = Checkpoints(tmp_path / "run", read_only=True)
        if not saves.fault(2):
            harmless.add(path.name)
            assert jax.tree.map(bits, saves.restore_params(2, jax.eval_shape(lambda: tree(0)))) == jax.tree.map(
                bits, tree(2)
            )
        path.write_bytes(whole)
    assert harmless <= {"_CHECKPOINT_METADATA", "commit_success.txt"}


def test_a_damaged_checkpoint_is_saved_anew_and_counts_for_nothing(two, cfg, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    flip(a_file(tmp_path / "run" / "checkpoints" / "2"))
    saves = Checkpoints(tmp_path / "run", keep_last=1)
    assert saves.latest() == 1
    save(saves, cfg, 2, 70.0)
    saves.close()
    assert Checkpoints(tmp_path / "run", read_only=True).latest() == 2


def test_what_a_killed_save_left_is_removed_by_the_next_and_never_read(two, cfg, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    stale = tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "2", stale)
    assert Checkpoints(tmp_path / "run", read_only=True).latest() == 2
    saves = Checkpoints(tmp_path / "run")
    assert saves.latest() == 2
    assert stale.exists()
    save(saves, cfg, 3)
    saves.close()
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"1", "2", "3"}


@pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_fails_is_an_error_and_costs_nothing_that_was_saved(two, cfg, tmp_path):
    """Limit files to 4 KiB, which the arrays exceed: a real system error in Orbax's own threads.

    Its writer of the other item goes on meanwhile: it may put files back into the temporary folder of this save after
    that was removed, and finds the event loop closed, which Python can only tell as an ignored exception.
    """
    shutil.copytree(two, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    saves, limits = Checkpoints(tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    params = {"a": jnp.asarray(np.random.default_rng(0).normal(size=10_000), jnp.float32)}

    def save_3():
        saves.save(3, "stabilise", params, {"count": jnp.int32(0)}, cfg)
        saves.wait()

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"checkpoints/3 could not be saved: .*Earlier checkpoints are whole"):
            save_3()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    aside = "checkpoints/3.orbax-checkpoint-tmp"
    assert {path: content for path, content in after.items() if aside not in str(path)} == before
    save(saves, cfg, 3)
    saves.close()
    assert not list(tmp_path.rglob("*.orbax-checkpoint-tmp*"))
    assert Checkpoints(tmp_path / "run", read_only=True).latest() == 3


def test_frozen_parameters_are_stored_once_and_come_back(cfg, tmp_path):
    frozen = {"a/kernel", "a/awkward"}
    for step in (1, 2):
        saves = Checkpoints(tmp_path, frozen=frozen)
        params = tree(step) | {"a": tree(0)["a"]}
        saves.save(step, "stabilise", params, {"count": jnp.int32(step)}, cfg)
        saves.close()
        when = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "frozen").rglob("*")}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "frozen").rglob("*")} == when
    again = Checkpoints(tmp_path, read_only=True)
    assert again.steps() == [1, 2]
    for step in (1, 2):
        restored = again.restore_params(step, jax.eval_shape(lambda: tree(0)))
        assert jax.tree.map(bits, restored) == jax.tree.map(bits, tree(step) | {"a": tree(0)["a"]})
    flip(a_file(tmp_path / "checkpoints" / "frozen"))
    with pytest.raises(StorageError, match=r"/2 is damaged: frozen: .*; checkpoint .*/1 is damaged: frozen: "):
        Checkpoints(tmp_path, read_only=True).latest()


def test_frozen_parameters_of_another_run_are_not_taken(cfg, tmp_path):
    """A run that was killed before its first checkpoint leaves only its frozen parameters."""
    for seed in (0, 5):
        saves = Checkpoints(tmp_path, frozen={"a/kernel", "a/awkward"})
        saves.save(1, "stabilise", tree(seed), {"count": jnp.int32(0)}, cfg)
        saves.close()
        restored = Checkpoints(tmp_path, read_only=True).restore_params(1, jax.eval_shape(lambda: tree(0)))
        assert jax.tree.map(bits, restored) == jax.tree.map(bits, tree(seed))
        shutil.rmtree(tmp_path / "checkpoints" / "1")
