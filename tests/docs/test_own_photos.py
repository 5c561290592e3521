"""docs/own_photos.md, command by command as it is written, on 200 photos and a spreadsheet as Excel saves it.

Only the training is shorter: 4 steps of 8 pairs, on one crop of each photo.
"""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import jax
import pytest

from bridge_jax.config import parse
from bridge_jax.run import origin
from bridge_jax.step import sharding
from bridge_jax.workdir.checkpoint import Checkpoints
from configs import flickr8k
from tests import process
from tests.docs.test_commands import ROOT, blocks, words_of

PAGE = ROOT / "docs/own_photos.md"
PHOTOS = 200
SHORT = tuple(f"--config.stages.align.{value}" for value in ("steps=4", "batch_size=8", "cached_crops=1"))


@pytest.fixture(scope="module")
def place(shared, tmp_path_factory):
    """A folder as the page expects it: photos, their list, the vocabulary, and a run to start from."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "data/minilm").mkdir(parents=True)
    shutil.copy(shared / "weights/minilm_l6/vocab.txt", folder / "data/minilm")
    source = shared / "data/flickr8k"
    entries = json.loads((source / "dataset_flickr8k.json").read_text(encoding="utf-8"))["images"]
    chosen = [entry for entry in entries if entry["split"] == "val"][:PHOTOS]
    (folder / "photos").mkdir()
    (shown,) = re.findall(r"^```text\n(.*?)\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    with (folder / "photos" / "My captions.csv").open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(name.upper().center(len(name) + 2) for name in shown.split(","))
        for entry in chosen:
            shutil.copy(source / "images" / entry["filename"], folder / "photos")
            rows.writerow((entry["filename"], entry["sentences"][0]["raw"]))
    settings = flickr8k.get_config()
    settings.data.vocabulary = "data/minilm/vocab.txt"
    settings.vision.pretrained = str(shared / "weights/dinov2_small")
    settings.text.pretrained = str(shared / "weights/minilm_l6")
    cfg = parse(settings)
    saves = Checkpoints(folder / "runs/flickr8k")
    params = jax.device_get(origin.initial(cfg, sharding.make_mesh(cfg.mesh)))
    saves.save(1, "align", params, None, cfg)
    saves.close()
    return folder


def run(place, words, *more):
    assert words[:2] == ["python", "-m"], words
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return process.run(*words[2:], *more, cwd=place, env=environment)


def test_from_a_spreadsheet_to_search_results(place):
    doctor, prepare, before, train, build, query = words_of("\n".join(blocks(PAGE)))
    done = run(place, doctor)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: some caption is too long for the text tower
    assert f"{PHOTOS} pictures (train " in done.stdout
    outputs = [run(place, prepare), run(place, before), run(place, train, *SHORT)]
    outputs += [run(place, build), run(place, query)]
    assert [done.returncode for done in outputs] == [0] * 5, outputs[-1].stderr + outputs[2].stderr
    prepared, scored, trained, built, asked = (done.stdout for done in outputs)
    sizes = [int(size) for size in re.search(r": train (\d+), val (\d+), test (\d+)\n", prepared).groups()]
    assert sum(sizes) == PHOTOS
    assert min(sizes[1:]) >= 15
    assert "folder/test, step 1" in scored
    assert "folder/test, step 4" in trained
    assert f"own.index: {PHOTOS} photos ({PHOTOS} new), 0 skipped" in built
    paths = [line.split()[-1] for line in asked.splitlines() if line.endswith(".jpg")]
    assert len(set(paths)) == 10
    assert all((place / "photos" / Path(path)).is_file() for path in paths)
