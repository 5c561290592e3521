"""A statement and its pictures through the model: order, rows, meshes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.config import Blocks, ConfigError, objectives
from bridge_jax.evals.nlvr2 import judgements
from bridge_jax.step import forward, sharding
from bridge_jax.step.params import param_shapes
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
SHALLOW = dict(vision=dict(depth=2), text=dict(depth=2), bridge=dict(layers=1))


@pytest.fixture(scope="module")
def cfg():
    return tiny.config(stage=dict(losses=("nlvr2",), batch_size=8), **SHALLOW)


@pytest.fixture(scope="module")
def params(cfg):
    return tiny.params(cfg)


def logits(cfg, params, batch):
    return np.asarray(tiny.outputs(cfg, params, batch, ("each_picture", "nlvr2")).own["nlvr2"])


def one_by_one(cfg, params, batch):
    """Return the logits, from one call for each picture with its statement, pooled and judged by hand."""

    def run(model):
        rows = []
        for row in range(len(batch.ids)):
            ids, mask, parts = batch.ids[row : row + 1], batch.text_mask[row : row + 1], []
            for picture in batch.images[row]:
                lower = Lower(image=model.lower_image(picture[None]), text=model.lower_text(ids, mask), text_mask=mask)
                fused, weight = model.fused(lower), mask[0][:, None]
                text = (fused.text_states[0] * weight).sum(axis=0) / weight.sum()
                common = cfg.bridge.embed_width * fused.text[0] * fused.image[0]
                parts += [text, fused.image_states[0].mean(axis=0), common]
            rows.append(model.heads.by_loss["nlvr2"](jnp.concatenate(parts)[None], True)[0, 0])
        return jnp.stack(rows)

    return np.asarray(tiny.apply(cfg, params, run))


def evaluated(cfg, params, batch):
    """Return the logits without dropout, as the evaluator computes them."""
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh), "nlvr2")
    image = np.asarray(predict.lower_image(params, batch.images))
    text = np.asarray(predict.lower_text(params, batch.ids, batch.text_mask))
    return np.asarray(predict.jit(judgements)(params, Lower(image=image, text=text, text_mask=batch.text_mask)))


def test_every_pair_is_fused_as_if_it_were_alone(cfg, params):
    batch = tiny.batch(cfg, 4)
    np.testing.assert_allclose(evaluated(cfg, params, batch), one_by_one(cfg, params, batch), rtol=2e-4, atol=2e-4)


def test_the_order_of_the_pictures_counts_and_that_of_the_rows_does_not(cfg, params):
    batch, order = tiny.batch(cfg, 4), [2, 0, 3, 1]
    before = evaluated(cfg, params, batch)
    swapped = dataclasses.replace(batch, images=batch.images[:, ::-1])
    assert np.abs(evaluated(cfg, params, swapped) - before).min() > 1e-3
    np.testing.assert_allclose(evaluated(cfg, params, tiny.take(batch, order)), before[order], rtol=1e-4, atol=1e-5)


def test_each_picture_and_each_word_counts(cfg, params):
    batch = tiny.batch(cfg, 4)
    before = logits(cfg, params, batch)
    for picture in (0, 1):
        images = batch.images.copy()
        images[:, picture] = 255 - images[:, picture]
        changed = dataclasses.replace(batch, images=images)
        drop = logits(cfg, params, changed)  # the same dropout
        assert np.abs(drop - before).min() > 1e-4
    padded = dataclasses.replace(batch, ids=np.where(batch.text_mask, batch.ids, 7).astype(np.int32))
    np.testing.assert_array_equal(logits(cfg, params, padded), before)


def test_a_single_picture_needs_no_axis(params):
    cfg = tiny.config(stage=dict(losses=("nlvr2",)), losses=dict(nlvr2=dict(weight=1.0, pictures=1)), **SHALLOW)
    params, batch = tiny.params(cfg), tiny.batch(cfg, 4)
    assert batch.images.ndim == 4
    before = logits(cfg, params, batch)
    np.testing.assert_array_equal(logits(cfg, params, dataclasses.replace(batch, images=batch.images[:, None])), before)


def test_rows_stay_whole():
    lower = Lower(image=np.arange(12).reshape(2, 3, 2, 1), text=np.array([[[1.0]], [[2.0]]]), text_mask=np.ones((2, 1)))
    pairs = forward.each_picture(lower)
    assert pairs.image[:, 0, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert pairs.text[:, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]


def test_scanned_blocks_give_the_same(cfg, params):
    scanned = dataclasses.replace(cfg, blocks=Blocks(scan=True, remat="full", kernels="plain"))
    batch = tiny.batch(cfg, 4)
    np.testing.assert_allclose(evaluated(scanned, params, batch), evaluated(cfg, params, batch), rtol=1e-4, atol=1e-5)


MESHES = """
import jax, numpy as np
import jax.numpy as jnp
from bridge_jax import paths
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import abstract_params
from tests import meshes, tiny
runs = []
for sizes in ((1, 1, 1), (8, 1, 1), (4, 2, 1)):
    cfg = tiny.config(
        stage=dict(batch_size=8, losses=("nlvr2",), train=meshes.TRAIN),
        vision=dict(depth=2), text=dict(depth=2, dropout=0.1),
        bridge=dict(layers=1, attention_dropout=0.1, output_dropout=0.1), mesh=dict(zip(sharding.AXES, sizes)),
    )
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(sizes)])
    stage_step = train_step.build(cfg, cfg.stages["train"], 0, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(cfg, mesh))
    state = stage_step.init(jnp.int32(0), jax.device_put(tiny.params(cfg), placed))
    for index in range(2):
        state, metrics = stage_step.train_step(state, sharding.put_batch(tiny.batch(cfg, 8, seed=index), mesh))
    runs.append({"loss": metrics["loss"], **paths.flatten(state.params)})
one, *others = jax.device_get(runs)
for other in others:
    for path, value in one.items():
        np.testing.assert_allclose(other[path], value, rtol=1e-4, atol=2e-5, err_msg=path)
print("same")
"""


def test_one_answer_on_one_device_and_on_eight():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", MESHES]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("same\n")


@pytest.mark.parametrize(
    ("stage", "losses", "says"),
    [
        (
            dict(losses=("nlvr2", "itm")),
            ("nlvr2", "itm"),
            "nlvr2 reads statements and itm reads captions: give them",
        ),
        (
            dict(losses=("nlvr2", "mlm")),
            ("nlvr2", "mlm"),
            "nlvr2 may read several pictures a row, and the other",
        ),
        (
            dict(losses=("nlvr2",), cached_crops=1),
            ("nlvr2",),
            "the cache holds pictures and captions, and nlvr2 reads more",
        ),
    ],
)
def test_what_cannot_be_together_is_refused(stage, losses, says):
    with pytest.raises(ConfigError, match=says):
        tiny.config(stage=stage)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"config\.losses\.nlvr2\.pictures is 3; a statement is about 1 or 2"):
        tiny.config(stage=dict(losses=("nlvr2",)), losses=dict(nlvr2=dict(weight=1.0, pictures=3)))
    cfg = tiny.config(stage=dict(losses=("nlvr2",)))
    assert objectives.evaluator_of(cfg.stages["train"]) == "nlvr2"
    assert objectives.reads(cfg.stages["train"]) == "statements"
    assert objectives.reads(tiny.config().stages["train"]) == "captions"
    assert param_shapes(cfg)["heads"]["nlvr2"]["out"]["kernel"].shape == (24, 1)
