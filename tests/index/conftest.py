"""A checkpoint with random parameters, and a folder of coloured shapes, in two folders of different days."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from bridge_jax.config import parse
from bridge_jax.data import pipeline
from bridge_jax.index import query, store
from bridge_jax.index.model import Model, open_model
from bridge_jax.index.query import Search
from bridge_jax.index.refusal import MOST_ALARMS
from tests import runs
from tests.index.albums import DAYS, PHOTOS, make


@pytest.fixture(scope="session")
def search_run(tiny, tmp_path_factory) -> Path:
    """Return the workdir of a run that was never trained."""
    cfg = parse(tiny())
    workdir = tmp_path_factory.mktemp("search") / "run"
    runs.saved(cfg, workdir)
    return workdir


@pytest.fixture(scope="session")
def model(search_run) -> Model:
    return open_model(search_run)


@pytest.fixture(scope="session")
def album(model, tmp_path_factory) -> Path:
    """Return a folder of photos that no test changes."""
    folder = tmp_path_factory.mktemp("album") / "photos"
    records = pipeline.open_split(model.cfg.data, "train")
    for number in range(PHOTOS):
        name, seconds = list(DAYS.items())[number % 2]
        path = folder / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(records[number]["image"])
        os.utime(path, (seconds, seconds))
    return folder


@pytest.fixture
def photos(album, tmp_path) -> Path:
    """Return a copy of the album, for a test that changes it."""
    return shutil.copytree(album, tmp_path / "photos")


@pytest.fixture(scope="session")
def built(model, album, tmp_path_factory) -> Path:
    """Return an index of the album, with a refusal, that no test changes."""
    index = tmp_path_factory.mktemp("index") / "album"
    make(model, album, index, refusal=True)
    manifest = store.read_manifest(index)
    assert (
        manifest.refusal["false_alarms"] > MOST_ALARMS
    )  # the model was never trained; tests need its refusal all the same
    store.write_manifest(index, dataclasses.replace(manifest, refusal=manifest.refusal | {"false_alarms": 0.0}))
    return index


@pytest.fixture
def search(model, built) -> Search:
    return query.open_search(model, built)
