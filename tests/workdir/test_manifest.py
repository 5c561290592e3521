"""A manifest against real damage: whatever happens to a file of the folder is told, by the name of the file."""

import contextlib
import itertools
import os

import pytest

from bridge_jax.workdir import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "params" / "d").mkdir(parents=True)
    (tmp_path / "params" / "d" / "array").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "meta").write_text("{}")
    manifest.write(tmp_path)
    return tmp_path


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_folder_that_nothing_happened_to_is_whole(folder):
    assert manifest.fault(folder) == ""


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: flip(f / "params/d/array", 5000), "params/d/array has changed since it was written"),
        (lambda f: flip(f / "params/d/array", 0), "params/d/array has changed since it was written"),
        (lambda f: (f / "params/d/array").write_bytes(b"short"), "params/d/array has 5 bytes, but 10240 were written"),
        (lambda f: (f / "meta").unlink(), "meta is missing"),
        (lambda f: (f / "params/d/more").write_text(""), "params/d/more was added"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text('{"files": {'), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is damaged"),
    ],
)
def test_damage_is_named(folder, damage, says):
    damage(folder)
    assert manifest.fault(folder) == says


def test_no_flipped_bit_of_the_manifest_goes_unseen(folder):
    """Scores choose the best checkpoint and are read without reading the arrays, so they must not change unseen."""
    manifest.score(folder, {"rsum": 123.456})
    path, record = folder / "manifest.json", manifest.read(folder)
    whole = path.read_bytes()
    for at, bit in itertools.product(range(len(whole)), (0, 5)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            assert manifest.read(folder) == record  # a space that became a tab


def test_scores_come_back_and_leave_the_files_hashes(folder):
    before = manifest.read(folder)["files"]
    manifest.score(folder, {"rsum": 0.1 + 0.2})
    assert manifest.read(folder)["scores"] == {"rsum": 0.1 + 0.2}
    assert manifest.read(folder)["files"] == before
    assert manifest.fault(folder) == ""


def test_only_numbers_are_committed_steps(tmp_path):
    for name in ("10", "2", "frozen", "12.orbax-checkpoint-tmp", "7.copying"):
        (tmp_path / name).mkdir()
    assert manifest.committed(tmp_path) == [2, 10]
    assert manifest.committed(tmp_path / "nothing") == []


@pytest.fixture
def nobody():
    """Drop the rights of root for the test, since root reads every file."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("name", ["meta", "manifest.json", "params/d/array"])
def test_a_file_that_cannot_be_read_is_a_fault_of_its_folder(folder, name, request):
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o055)
    (folder / name).chmod(0)
    request.getfixturevalue("nobody")
    assert manifest.fault(folder) == f"{name} cannot be read (Permission denied)"
