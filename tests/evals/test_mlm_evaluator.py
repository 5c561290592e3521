"""The evaluator of masked words against a slow twin that masks and reads one caption at a time."""

import numpy as np
import pytest

from bridge_jax import config, optim, rng, sharding
from bridge_jax import step as steps
from bridge_jax.config import ConfigError
from bridge_jax.data import image, masking, pipeline, text
from bridge_jax.evals import asking, mlm
from bridge_jax.types import Lower
from configs import common
from tests import runs

SPLIT = "val"


@pytest.fixture(scope="module")
def cfg(tiny):
    settings = tiny()
    settings.losses.mlm = dict(weight=1.0)
    settings.data.mask_text_fraction = 0.5
    settings.evals.mlm = common.mlm(batch_size=7, splits=(SPLIT,), bootstrap_samples=20)
    return config.parse(settings)


@pytest.fixture(scope="module")
def params(cfg):
    """Random parameters with open gates, and a head whose words depend on the picture."""
    draw, flat = np.random.default_rng(0), optim.flatten(runs.opened(cfg, "heads/mlm"))
    return optim.unflatten({path: x + draw.normal(scale=0.3, size=x.shape).astype(x.dtype) for path, x in flat.items()})


@pytest.fixture(scope="module")
def metrics(cfg, params):
    evaluator = mlm.Evaluator(cfg, steps.build_predict(cfg, sharding.make_mesh(cfg.mesh), "mlm"))
    return evaluator.final(params, SPLIT, lambda *_: None)


def one_by_one(cfg, params, pictures):
    """Return the share of masked words that are put back, and what is put in every one's place."""
    model, tokenizer = steps.BridgeModel(cfg), text.load(cfg.data, cfg.text)
    records, seed = pipeline.open_split(cfg.data, SPLIT), rng.stream_seed(cfg.seed, f"mlm/{SPLIT}/masks")

    def run(model, images, ids, mask):
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=mask)
        return model.heads.mlm(model.fused(lower).text_states)

    jitted = steps.jax.jit(lambda *args: steps.nn.apply(run, model)({"params": params}, *args))
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
    table = mlm.table(metrics)
    assert table.columns[1:] == ("accuracy [95 %]", "picture shuffled [95 %]")
    assert table.rows[0][0] == f"{metrics['mlm/words']:.0f}"


def test_it_needs_the_head(tiny):
    settings = tiny()
    settings.evals.mlm = common.mlm()
    with pytest.raises(ConfigError, match=r"config\.evals\.mlm needs the head that config\.losses\.mlm trains"):
        config.parse(settings)
