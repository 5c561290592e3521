"""The evaluator of masked words against a slow twin that masks and reads one caption at a time."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from bridge_jax import config, paths, rng
from bridge_jax.config import ConfigError
from bridge_jax.data import image, masking, pipeline, prepared, text
from bridge_jax.evals import asking, mlm
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from configs import common
from tests import runs
from tests.data import bad_inputs
from tests.data.test_pairs import shard, tar
from tools import prepare_data

SPLIT = "val"


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny()
    settings.losses.mlm = dict(weight=1.0, mask_fraction=0.5)
    settings.evals.mlm = common.mlm(batch_size=7, splits=(SPLIT,), bootstrap_samples=20)
    return config.parse(settings)


@pytest.fixture(scope="module")
def params(cfg):
    """Random parameters with open gates, and a head whose words depend on the picture."""
    draw, flat = np.random.default_rng(0), paths.flatten(runs.opened(cfg, "heads/mlm"))
    return paths.unflatten({path: x + draw.normal(scale=0.3, size=x.shape).astype(x.dtype) for path, x in flat.items()})


@pytest.fixture(scope="module")
def metrics(cfg, params):
    evaluator = mlm.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "mlm"))
    return evaluator.final(params, SPLIT, lambda *_: None)


def one_by_one(cfg, params, pictures):
    """Return the share of masked words that are put back, and what is put in every one's place."""
    model, tokenizer = BridgeModel(cfg), text.load(cfg.data, cfg.text)
    records, seed = pipeline.open_split(cfg.data, SPLIT), rng.stream_seed(cfg.seed, f"mlm/{SPLIT}/masks")

    def run(model, images, ids, mask):
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=mask)
        return model.heads.by_loss["mlm"](model.fused(lower).text_states)

    jitted = jax.jit(lambda *args: nn.apply(run, model)({"params": params}, *args))
    hits, words = [], []
    for index, picture in enumerate(pictures):
        pixels = image.eval_view(records[int(picture)]["image"], cfg.vision.image_px)[None]
        for number, said in enumerate(records[index]["captions"]):
            (ids,), (mask,) = tokenizer.encode([said])
            generator = np.random.default_rng((seed, index, number))
            masked, chosen = masking.mask_tokens(ids, mask, tokenizer, 0.5, generator)
            found = np.asarray(jitted(pixels, masked[None], mask[None]))[0].argmax(axis=-1)
            hits += (found == ids)[chosen].tolist()
            words += found[chosen].tolist()
    return 100 * np.mean(hits), words


def test_equals_one_caption_at_a_time(cfg, params, metrics):
    count = len(pipeline.open_split(cfg.data, SPLIT))
    accuracy, words = one_by_one(cfg, params, range(count))
    assert metrics["mlm/accuracy"] == pytest.approx(accuracy, abs=0.2)  # a tie may fall either way
    assert metrics["mlm/words"] == len(words)
    others = asking.derangement(count, rng.stream_seed(cfg.seed, f"mlm/{SPLIT}"))
    blind, other_words = one_by_one(cfg, params, others)
    assert metrics["shuffled/accuracy"] == pytest.approx(blind, abs=0.2)
    assert metrics["mlm/accuracy_low"] <= metrics["mlm/accuracy"] <= metrics["mlm/accuracy_high"]
    assert words != other_words


def test_the_table_has_both(metrics):
    table = mlm.Evaluator.table(metrics)
    assert table.columns[2:] == ("accuracy [95 %]", "picture shuffled [95 %]")
    assert [row[:2] for row in table.rows] == [("all", f"{metrics['mlm/words']:.0f}")]


def test_of_a_mixture_every_data_set_with_the_split_is_scored(cfg, params, metrics, small_shapes, tmp_path):
    """Shapes and photos; Conceptual Captions have no `val`."""
    (tmp_path / "shapes").symlink_to(small_shapes / "shapes")
    raw = bad_inputs.raw_folder(tmp_path / "raw", 8, {}, held_out=5)
    prepare_data.prepare("flickr8k", str(tmp_path), raw_dir=str(raw))
    tar(tmp_path / "0.tar", shard("abc"))
    prepare_data.prepare("cc3m", str(tmp_path), raw_dir=str(tmp_path), workers=1)
    vocabulary = str(next(small_shapes.rglob(prepared.VOCABULARY)))

    def scored(*names):
        mixture = tuple((name, 1 / len(names)) for name in names)
        data = dataclasses.replace(cfg.data, data_dir=str(tmp_path), mixture=mixture, vocabulary=vocabulary)
        mixed = dataclasses.replace(cfg, data=data)
        mlm.Evaluator.check(mixed)
        predict = build_predict(mixed, sharding.make_mesh(cfg.mesh), "mlm")
        return mlm.Evaluator(mixed, predict).final(params, SPLIT, lambda *_: None)

    found = scored("flickr8k", "cc3m", "shapes")
    for score in ("mlm", "shuffled"):
        own = [found[f"{score}/{name}/accuracy"] for name in ("flickr8k", "shapes")]
        words = [found[f"{score}/{name}/words"] for name in ("flickr8k", "shapes")]
        assert found[f"{score}/words"] == sum(words)
        assert found[f"{score}/accuracy"] == pytest.approx(np.average(own, weights=words))
        assert own[1] == metrics[f"{score}/accuracy"]
        assert found[f"{score}/shapes/accuracy_low"] == metrics[f"{score}/accuracy_low"]
    assert not [name for name in found if "cc3m" in name]
    assert [row[0] for row in mlm.Evaluator.table(found).rows] == ["all", "  flickr8k", "  shapes"]
    assert scored("cc3m", "shapes") == metrics


def test_it_needs_the_head(tiny):
    settings = tiny()
    del settings.losses.mlm
    settings.evals.mlm = common.mlm()
    with pytest.raises(ConfigError, match=r"config\.evals\.mlm needs the loss mlm: add it"):
        config.parse(settings)
