"""What is cut short leaves the old state or the new one."""

import pytest

from bridge_jax.workdir import atomic, manifest


def test_a_write_that_is_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    atomic.write_json(tmp_path / "file", {"a": 1})

    def killed(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            atomic.write_json(tmp_path / "file", {"a": 2})
    assert (tmp_path / "file").read_text() == '{\n "a": 1\n}\n'
    atomic.write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_removal_that_is_cut_short_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    """Removing many files takes a while; found by the long kill drill."""
    (tmp_path / "3" / "params").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.shutil, "rmtree", lambda *arguments, **keywords: None)
        atomic.remove(tmp_path / "3")
    assert manifest.committed(tmp_path) == []
    (tmp_path / "3").mkdir()
    atomic.remove(tmp_path / "3")
    atomic.remove(tmp_path / "3")
    assert list(tmp_path.iterdir()) == []
