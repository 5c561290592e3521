"""A damaged index is refused by the name of its file, whichever file it is."""

import json

import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.index import store


@pytest.fixture
def folder(tmp_path):
    made = store.Manifest(store.FORMAT, "c", "w", 1, "photos", (3, 2, 2), states=True)
    arrays = {store.EMBEDDINGS: np.ones((2, 3), np.float32), store.STATES: np.ones((2, 2, 2), np.float16)}
    made = store.append(tmp_path, made, arrays, [{"sha256": str(n) * 64, "taken": ""} for n in range(2)])
    store.write_files(tmp_path, made, [store.File(f"{n}.jpg", str(n) * 64, 5, 10**18, n) for n in range(2)])
    assert len(store.open_index(tmp_path).photos) == 2
    return tmp_path


def change(folder, **values):
    record = json.loads((folder / store.MANIFEST).read_text())
    (folder / store.MANIFEST).write_text(json.dumps(record | values))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / store.EMBEDDINGS).write_bytes(b"12"), r"embeddings\.f32 is damaged \(.*mmap length"),
        (lambda f: (f / store.STATES).unlink(), r"states\.f16 is damaged \(FileNotFound"),
        (
            lambda f: (f / store.CONTENTS).write_text('{"sha256": "0", "taken": ""}\n'),
            r"contents\.jsonl is damaged .*1 lines, expected 2",
        ),
        (lambda f: (f / store.CONTENTS).write_text("null\n"), r"contents\.jsonl is damaged \(TypeError"),
        (
            lambda f: next(f.glob("files-*")).write_text("[]"),
            r"files-.*\.jsonl is damaged .*it has changed since it was written",
        ),
        (lambda f: next(f.glob("files-*")).unlink(), r"files-.*\.jsonl is damaged \(FileNotFound"),
        (lambda f: change(f, rows=None), r"index\.json is damaged \(None\)"),
        (lambda f: change(f, shape=[3, 2]), r"index\.json is damaged"),
        (lambda f: change(f, refusal=[1]), r"index\.json is damaged \(\[1\]\)"),
        (lambda f: change(f, photos=7), r"index\.json is damaged \(7\)"),
    ],
)
def test_each_file_is_named_and_the_remedy_too(folder, damage, says):
    damage(folder)
    with pytest.raises(ConfigError, match=rf"^--index: {folder}/{says}.*: remove {folder} and build anew$"):
        store.open_index(folder)
