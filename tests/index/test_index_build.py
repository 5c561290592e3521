"""bridge_jax/index/build.py: an index is that of an undisturbed build, whatever happened meanwhile."""

import dataclasses
import errno
import os
import shutil

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.data import image
from bridge_jax.index import build, store
from bridge_jax.index.query import Search
from bridge_jax.workdir import lock
from bridge_jax.workdir.lock import WorkdirBusyError
from bridge_jax.workdir.outcome import StorageError
from tests.index.albums import PHOTOS, make


def content(folder):
    """Return the bytes of every file of an index but its lock, which names the process that built it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != lock.FILE}


@pytest.fixture
def small_commits(monkeypatch):
    monkeypatch.setattr(build, "COMMIT", 1)  # a batch of 16 photos


def test_the_rows_are_the_models_own(model, album, built):
    index = store.open_index(built)
    assert len(index.photos) == PHOTOS
    for photo in list(index.photos.values())[:3]:
        view = image.eval_view((album / photo.path).read_bytes(), model.cfg.vision.image_px, model.cfg.data.squash)
        embedding, lower = model.photos(np.repeat(view[None], model.batch, axis=0))
        np.testing.assert_allclose(index.embeddings[photo.row], embedding[0], atol=1e-6)
        np.testing.assert_allclose(index.states[photo.row], lower[0], rtol=2**-11, atol=1e-6)
        assert photo.id == photo.id.lower()
        assert photo.date == {"circles": "2023-11-14", "squares": "2020-09-13"}[photo.path.split("/")[0]]


class Killed(BaseException):
    """Raised in place of a kill: no handler of the program sees it."""


@pytest.mark.usefixtures("small_commits")
def test_a_build_killed_at_any_write_ends_in_the_same_bytes(model, photos, tmp_path, monkeypatch):
    (photos / "broken.jpg").write_bytes(b"no picture")
    make(model, photos, tmp_path / "whole", approximate=True)
    whole, real, kills = content(tmp_path / "whole"), os.fsync, 0
    for after in range(100):
        writes = iter(range(after))

        def fsync(descriptor, writes=writes):
            if next(writes, None) is None:
                os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 5))  # not all of it reached the disk
                raise Killed
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            make(model, photos, tmp_path / "killed", approximate=True)
            break
        except Killed:
            kills += 1
        if after % 4 == 3:  # several kills of one build, then a new one
            monkeypatch.setattr(os, "fsync", real)
            make(model, photos, tmp_path / "killed", approximate=True)
            assert content(tmp_path / "killed") == whole
            shutil.rmtree(tmp_path / "killed")
    assert content(tmp_path / "killed") == whole
    assert kills >= 6


def test_an_index_follows_its_folder_without_embedding_a_photo_twice(model, photos, tmp_path, monkeypatch):
    index, embedded = tmp_path / "index", []
    real = build._embed

    def embed(model, group, states):
        embedded.append(len(group))
        return real(model, group, states)

    monkeypatch.setattr(build, "_embed", embed)
    first = make(model, photos, index)
    assert (first.changes.new, first.photos, embedded) == (PHOTOS, PHOTOS, [PHOTOS])
    assert make(model, photos, index).changes.unchanged == PHOTOS
    before = store.open_index(index)
    (photos / "circles/00.png").rename(photos / "moved.png")
    shutil.copy(photos / "circles/02.png", photos / "copy.png")
    (photos / "circles/04.png").unlink()
    (photos / "squares/01.png").write_bytes((photos / "squares/03.png").read_bytes() + b"\0")
    (photos / "new.png").write_bytes((photos / "squares/05.png").read_bytes() + b"\0")
    done = make(model, photos, index)
    assert done.changes._asdict() == {"new": 2, "changed": 1, "moved": 1, "deleted": 1, "unchanged": PHOTOS - 3}
    assert (embedded, done.photos, done.unused) == ([PHOTOS, 2], PHOTOS, 2)
    after = store.open_index(index)
    rows = {photo.path: photo.row for photo in after.photos.values()}
    assert rows["moved.png"] == {photo.path: photo.row for photo in before.photos.values()}["circles/00.png"]
    assert "circles/04.png" not in rows
    np.testing.assert_array_equal(after.embeddings[:PHOTOS], before.embeddings)


def test_broken_photos_are_named_and_left_out(model, photos, tmp_path):
    good = (photos / "circles/00.png").read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "empty.jpg").touch()
    (photos / "dangling.jpg").symlink_to(photos / "none.jpg")
    for name in ("live.mov", "notes.txt", ".hidden.png"):
        (photos / name).write_bytes(good)
    done = make(model, photos, tmp_path / "index")
    assert {file.path for file in done.skipped} == {"cut.png", "empty.jpg", "dangling.jpg"}
    assert all(file.fault for file in done.skipped)
    assert (done.photos, done.changes.new) == (PHOTOS, PHOTOS + 3)
    (photos / "cut.png").write_bytes(good + b"\0")  # mended
    assert make(model, photos, tmp_path / "index").photos == PHOTOS + 1


@pytest.mark.usefixtures("small_commits")
def test_a_full_disk_leaves_the_index_whole(model, photos, tmp_path, monkeypatch):
    index, real, writes = tmp_path / "index", os.fsync, iter(range(6))
    make(model, photos, tmp_path / "whole")

    def fsync(descriptor):
        if next(writes, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match=r"No space left on device; the index is whole and holds 16 photos"):
            make(model, photos, index)
    manifest = store.read_manifest(index)
    for name, size in manifest.row_bytes.items():
        assert (index / name).stat().st_size == 16 * size
    make(model, photos, index)
    assert content(index) == content(tmp_path / "whole")


def test_the_size_is_told_before_and_too_little_room_is_refused(model, photos, tmp_path, monkeypatch):
    said = []
    make(model, photos, tmp_path / "index", said=said)
    tokens, width = store.open_index(tmp_path / "index").states.shape[1:]
    megabytes = PHOTOS * tokens * width * 2 / 1e6
    assert f"lower states {megabytes:.1f} MB, {tokens} x {width} float16 a photo" in said[0]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"needs .* MB more, and 0.0 MB are free: make room, or .*--no_states"):
        make(model, photos, tmp_path / "other")


def test_what_cannot_be_indexed_is_one_line(model, photos, tmp_path):
    index = tmp_path / "index"
    make(model, photos, index)
    before = content(index)
    other = dataclasses.replace(model, digest="0" * 64)
    with pytest.raises(ConfigError, match="its embeddings say nothing to another model"):
        make(other, photos, index)
    with pytest.raises(ConfigError, match="stores the lower states: build it as before"):
        make(model, photos, index, states=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no photos: expected files that end with"):
        make(model, tmp_path / "empty", index)
    shutil.copytree(photos, tmp_path / "second")
    with pytest.raises(ConfigError, match="is of the photos in"):
        make(model, tmp_path / "second", index)
    with lock.hold(index), pytest.raises(WorkdirBusyError, match=r"--index .* is in use by process"):
        make(model, photos, index)
    assert content(index) == before
    photos.rename(tmp_path / "elsewhere")
    done = make(model, tmp_path / "elsewhere", index)
    assert done.changes.unchanged == PHOTOS


def test_an_index_without_states_answers_as_one_with(model, photos, built, tmp_path):
    make(model, photos, tmp_path / "index", states=False)
    assert not (tmp_path / "index" / store.STATES).exists()
    lean, full = (Search(model, store.open_index(index)) for index in (tmp_path / "index", built))
    one, two = (search.text("a red circle", k=10) for search in (lean, full))
    assert [hit.photo.path for hit in one.hits] == [hit.photo.path for hit in two.hits]
    np.testing.assert_allclose([hit.logit for hit in one.hits], [hit.logit for hit in two.hits], atol=0.02)
    gone = one.hits[0].photo.path
    (photos / gone).unlink()
    last = lean.text("a red circle", k=10).hits[-1]
    assert (last.photo.path, last.gone, last.logit) == (gone, True, None)
