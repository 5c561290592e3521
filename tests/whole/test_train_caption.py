"""A run whose last stage trains a decoder: read from cached states, watched, resumed and chosen by what it writes."""

import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax import config, paths
from bridge_jax.config import evaluators
from bridge_jax.data import pipeline
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.run import origin
from bridge_jax.step import forward, sharding
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import runs
from tests.runs import assert_same, logged, parameters

LAST = 8
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


@pytest.fixture(scope="module")
def cfg(tiny_caption):
    return config.parse(tiny_caption())


def test_the_stage_is_watched_by_what_is_written_and_trains_the_decoder_alone(whole, cfg):
    workdir, result = whole
    values = logged(workdir)
    assert {step for step, name in values if name == "eval/caption/cider"} == {6, 8}
    assert {step for step, name in values if name == "train/caption/accuracy"} == {5, 6, 7, 8}
    assert {f"val/{of}/{score}_low" for of in ("caption", "shuffled") for score in ("cider", "true")} <= result.keys()
    saves = Checkpoints(workdir, read_only=True)
    assert saves.scores(LAST) == {"stage_index": 1.0, "cider": values[LAST, "eval/caption/cider"]}
    before, after = parameters(workdir, cfg, 6), parameters(workdir, cfg, LAST)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in after if path.startswith("decoder/")}


def test_a_stopped_run_ends_as_if_it_never_was(whole, cfg, tmp_path, monkeypatch):
    assert runs.stopped_at((3, 5, 6), cfg, tmp_path, monkeypatch) == whole[1]
    assert_same(tmp_path, whole[0])


@pytest.mark.parametrize("reads", ["image", "fused"])
@pytest.mark.parametrize("search", ["greedy", "beam", "nucleus"])
def test_every_search_writes_of_every_picture_whatever_the_batch(cfg, reads, search):
    decoder = dataclasses.replace(cfg.decoder, reads=reads)
    found = []
    for size in (8, 64):
        settings = dataclasses.replace(cfg.evals["caption"], search=search, batch_size=size)
        changed = dataclasses.replace(cfg, decoder=decoder, evals={**cfg.evals, "caption": settings})
        mesh = sharding.make_mesh(cfg.mesh)
        params = paths.unflatten(
            {path: x + 0.3 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
             for path, x in paths.flatten(origin.initial(changed, mesh)).items()}
        )  # fmt: skip
        evaluator = evaluators.build("caption", changed, build_predict(changed, mesh, "caption"))
        found.append(evaluator.write(params, "val", range(16), lambda *_: None))
    assert found[0] == found[1]
    assert len(found[0]) == 16
    assert len(set(found[0])) > 3


def test_a_caption_is_not_in_the_states_that_the_decoder_reads(cfg):
    """Fused with an empty text: other words in the batch change what is to be said, and no logit before them."""
    fused = dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, reads="fused"))
    stage = dataclasses.replace(cfg.stages["task"], cached_crops=0)
    batch = dataclasses.replace(pipeline.train(fused, stage, seed_stream="test")[0], broken=None)
    params = init_params(fused)

    @jax.jit
    def logits(batch):
        key = jax.random.key(0)
        how = forward.Forward(("caption",), lower_frozen=True)
        return forward.outputs(BridgeModel(fused), params, batch, how, forward.Keys(key, key)).own["caption"]

    words = batch.ids.copy()
    words[:, 3] = np.where(batch.text_mask[:, 3], 7, words[:, 3])
    longer = dataclasses.replace(batch, ids=words)
    np.testing.assert_array_equal(logits(batch)[:, :3], logits(longer)[:, :3])
    assert np.abs(logits(batch)[:, 3:] - logits(longer)[:, 3:]).max() > 1e-4
