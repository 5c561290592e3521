"""A finished run of a real checkpoint on the embedded set, with its rankings."""

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.data import records
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.report.gallery import open_gallery
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir import rankings
from bridge_jax.workdir.rankings import About
from tests import runs
from tests.report import made


@pytest.fixture(scope="session")
def cfg(tiny):
    settings = tiny()
    settings.stage_order = ("stabilise",)
    settings.bridge.layers = 2
    settings.vision.depth = settings.text.depth = 2
    settings.bridge.placement = "top"
    return config.parse(settings)


@pytest.fixture(scope="session")
def params(cfg):
    return runs.opened(cfg, "heads/itm/out")


@pytest.fixture(scope="session")
def predict(cfg):
    return build_predict(cfg, sharding.make_mesh(cfg.mesh))


@pytest.fixture(scope="session")
def workdir(cfg, params, predict, tmp_path_factory):
    """A finished run that left its rankings."""
    folder = made.workdir(tmp_path_factory.mktemp("seen") / "run", cfg=cfg, params=params)
    metrics, found = Evaluator(cfg, predict).ranked(params, "val", lambda *_: None)
    assert metrics["rerank/text_to_image/r@1"] == pytest.approx(100 * np.mean(found.text_to_image.rerank_rank == 1))
    rankings.write(folder, About("shapes", "val", made.STEPS, records.fingerprint(cfg.data, "val")), found)
    return folder


@pytest.fixture(scope="session")
def gallery(cfg):
    return open_gallery(cfg.data, "val")
