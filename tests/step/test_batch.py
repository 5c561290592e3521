"""The fields of a batch have one list, with which the batches of the pipeline, the cache and the tests are compared."""

import dataclasses

import jax
import pytest

from bridge_jax import config
from bridge_jax.config import objectives
from bridge_jax.data import pipeline
from bridge_jax.run import lower_cache
from bridge_jax.step import sharding
from bridge_jax.step.batch import abstract_batch
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from tests import tiny as tiny_model


def shapes(batch):
    return {name: (array.shape, array.dtype) for name, array in batch.arrays().items()}


@pytest.mark.parametrize("loss", objectives.known())
def test_the_tests_batch_has_the_fields_of_every_loss(loss):
    cfg = tiny_model.config(stage=dict(losses=(loss,), batch_size=4))
    fields, batch = shapes(abstract_batch(cfg, cfg.stages["train"])), shapes(tiny_model.batch(cfg))
    assert fields == {name: batch[name] for name in fields}


def test_the_pipeline_makes_the_fields_of_the_losses(tiny):
    settings = tiny()
    settings.losses.update(
        mlm=dict(weight=1.0, mask_fraction=0.15), mim=dict(weight=1.0, target="pixels", mask_fraction=0.4)
    )
    settings.vision.mask_token = True
    settings.stages.task.update(losses=("itc", "mlm", "mim"))
    cfg = config.parse(settings)
    batch = pipeline.train(cfg, cfg.stages["task"], seed_stream="test")[0]
    assert shapes(dataclasses.replace(batch, broken=None)) == shapes(abstract_batch(cfg, cfg.stages["task"]))


@pytest.mark.parametrize("losses", [("fused_itc", "itm"), ("token_itc",)])
def test_the_cache_holds_the_fields_of_a_stage_that_reads_it(tiny, tmp_path, losses):
    """token_itc reads the words as well, because a loss with an output of its own may."""
    settings = tiny()
    settings.cache_dir = str(tmp_path)
    settings.losses.token_itc = dict(weight=1.0, group=0)
    settings.stages.align.update(losses=losses, cached_crops=2, top_blocks=0, wrong_captions=2)
    cfg = config.parse(settings)
    stage, predict = cfg.stages["align"], build_predict(cfg, sharding.make_mesh(cfg.mesh))
    make = lower_cache.open_or_fill(cfg, stage, jax.device_get(init_params(cfg)), predict, lambda *_: None)
    batch = pipeline.train(cfg, stage, seed_stream="test", make_example=make)[0]
    assert shapes(dataclasses.replace(batch, broken=None)) == shapes(abstract_batch(cfg, stage))
