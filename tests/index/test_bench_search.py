"""tools/bench_search.py as a user runs it, and the rivals that it times: they see the photos, and are as large."""

import re
import subprocess
import sys

import numpy as np
import pytest

from tools import rivals

pytest.importorskip("sentence_transformers")


def test_a_query_is_timed_in_five_ways(search_run):
    words = [f"--workdir={search_run}", "--parts=rival", "--split=val", "--candidates=3", "--rounds=1"]
    command = [sys.executable, "-m", "tools.bench_search", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    build, rival = done.stdout.splitlines()[-2:]
    assert re.fullmatch(r"build: 16 photos: .*", build)
    ms, size = r"[\d.]+ ms", r"[\d.]+"
    names = ("CLIP bi-encoder", "ours, unimodal", "ours, 3 reranked", "ours, 3 reranked from their files",
             "CrossEncoder, 3 reranked")  # fmt: skip
    told = ", ".join(f"{name} {ms}" for name in names)
    sizes = f"ours {size}, CLIP {size}, CrossEncoder {size}"
    assert re.fullmatch(rf"rival: 16 photos, medians: {told}; millions of parameters: {sizes}", rival)


def test_the_rivals_read_text_and_photo(model, album, tmp_path):
    files = [str(path) for path in sorted(album.rglob("*.png"))[:3]]
    cross = rivals.cross_encoder(model, tmp_path)
    scores = cross.predict([("a red circle", file) for file in files] + [("a large blue square", files[0])])
    assert np.isfinite(cross.predict([("a red circle " * 5, files[0])])).all()
    assert len(np.unique(scores)) == 4
    found = cross.rank("a red circle", files)
    assert [hit["corpus_id"] for hit in found] == np.argsort(-scores[:3]).tolist()
    both = rivals.bi_encoder(model, tmp_path)
    embedded = both.encode(["a red circle", "a large blue square"])
    assert embedded.shape == (2, model.cfg.bridge.embed_width)
    assert not np.allclose(*embedded)
    ours = sum(rivals.parameters(model.params[tower]) for tower in ("vision", "text"))
    for rival in (cross, both):
        assert rivals.parameters(rival) == pytest.approx(ours, rel=0.4)
