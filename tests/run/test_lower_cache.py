"""The cache of lower states, compared with the towers that it replaces."""

import dataclasses
from multiprocessing.reduction import ForkingPickler

import jax
import numpy as np
import pytest

from bridge_jax import config, paths, rng
from bridge_jax.config import ConfigError
from bridge_jax.data import image, pipeline, text
from bridge_jax.run import lower_cache
from bridge_jax.step import sharding
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict

CROPS = 2


@pytest.fixture(scope="module")
def cfg(tiny):
    return config.parse(tiny(depth=2))


@pytest.fixture(scope="module")
def params(cfg):
    return jax.device_get(init_params(cfg))


@pytest.fixture(scope="module")
def predict(cfg):
    return build_predict(cfg, sharding.make_mesh(cfg.mesh))


def quiet(what, done, total):
    pass


def stored(states):
    return np.load(states.path)


def fill(cfg, params, predict, kinds=(), shares=(), **changes):
    stage = dataclasses.replace(cfg.stages["align"], cached_crops=CROPS, caption_kinds=kinds, kind_shares=shares)
    return lower_cache.open_or_fill(cfg, stage, params, dataclasses.replace(predict, **changes), quiet)


def with_part(cfg, part, **changes):
    return dataclasses.replace(cfg, **{part: dataclasses.replace(getattr(cfg, part), **changes)})


@pytest.fixture(scope="module")
def cache(cfg, params, predict):
    return fill(cfg, params, predict)


def test_it_is_filled_in_batches_of_the_evaluator_that_watches_the_stage(tiny_caption, tmp_path):
    """The config needs that evaluator alone."""
    settings = tiny_caption()
    settings.stage_order, settings.cache_dir = ("task",), str(tmp_path)
    del settings.evals.retrieval
    cfg = config.parse(settings)
    predict, params = build_predict(cfg, sharding.make_mesh(cfg.mesh), "caption"), init_params(cfg)
    cache = lower_cache.open_or_fill(cfg, cfg.stages["task"], params, predict, quiet)
    assert np.abs(stored(cache.image).astype(np.float32)).max(axis=(1, 2, 3)).min() > 0.1
    assert np.abs(stored(cache.text).astype(np.float32)).max(axis=(1, 2)).min() > 0.1


def test_a_cached_example_is_what_the_towers_make_of_its_view(cfg, params, predict, cache):
    records = pipeline.open_split(cfg.data, "train")
    tokenizer, seed = text.load(cfg.data, cfg.text), rng.stream_seed(cfg.seed, "lower_cache")
    for index in (0, 13, len(records) - 1):
        record = records[index]
        views = [
            image.train_view(
                record["image"], 32, cfg.data, image.may_flip(record["captions"]),
                np.random.default_rng((seed, index * CROPS + crop)),
            )
            for crop in range(CROPS)
        ]  # fmt: skip
        assert not np.array_equal(*views)
        ids, mask = tokenizer.encode(record["captions"])
        images, texts = predict.lower_image(params, np.stack(views)), predict.lower_text(params, ids, mask)
        # float16 keeps 11 bits
        np.testing.assert_allclose(stored(cache.image)[index], images, rtol=2**-11, atol=2e-6)
        rows = cache.captions[index]
        np.testing.assert_allclose(stored(cache.text)[rows], texts, rtol=2**-11, atol=2e-6)
        np.testing.assert_array_equal(cache.text_mask[rows], mask)
        for draw in range(4):
            example = cache(index, np.random.default_rng(draw))
            assert example["image_ids"] == record["image_id"]
            assert any(np.array_equal(example["lower_image"], crop) for crop in stored(cache.image)[index])
            row = [np.array_equal(example["lower_text"], caption) for caption in stored(cache.text)[rows]].index(True)
            np.testing.assert_array_equal(example["text_mask"], mask[row])


def test_worker_processes_are_sent_no_states(cache):
    assert len(ForkingPickler.dumps(cache.image)) < 1000 < stored(cache.image).nbytes


def test_every_crop_and_caption_is_drawn(cache):
    drawn = [cache(3, np.random.default_rng(seed)) for seed in range(64)]
    assert len({example["lower_image"].tobytes() for example in drawn}) == CROPS
    assert len({example["lower_text"].tobytes() for example in drawn}) == len(cache.captions[3])


def test_a_stage_draws_the_kinds_of_captions_that_it_names(cfg, params, predict, cache):
    relations = fill(cfg, params, predict, kinds=("relation",))
    for record, drawn, all_of_it in zip(
        pipeline.open_split(cfg.data, "train"), relations.captions, cache.captions, strict=True
    ):
        assert [record["caption_kinds"][i] for i in drawn - all_of_it[0]] == ["relation"] * 2


def test_kinds_are_drawn_by_their_shares(cfg, params, predict):
    """As often as the pipeline draws them: tests/data/test_pipeline.py."""
    cache = fill(cfg, params, predict, kinds=("relation", "converse"), shares=(1.0, 4.0))
    kinds = [kind for record in pipeline.open_split(cfg.data, "train") for kind in record["caption_kinds"]]
    generator, drawn = np.random.default_rng(0), []
    for index in np.tile(np.arange(len(cache.captions)), 10):
        states = cache(int(index), generator)["lower_text"]
        drawn += [kinds[row] for row in cache.captions[index] if np.array_equal(cache.text.read(row), states)]
    assert abs(drawn.count("converse") / len(drawn) - 0.8) < 3 * (0.16 / len(drawn)) ** 0.5


def test_the_outputs_are_those_of_the_towers(cfg, params, predict, cache):
    records = pipeline.open_split(cfg.data, "train")
    seed = rng.stream_seed(cfg.seed, "lower_cache")
    views = [
        image.train_view(records[i]["image"], 32, cfg.data, image.may_flip(records[i]["captions"]),
                         np.random.default_rng((seed, i * CROPS)))
        for i in range(16)
    ]  # fmt: skip
    live = predict.unimodal_image(params, predict.lower_image(params, np.stack(views)))
    cached = predict.unimodal_image(params, np.asarray(stored(cache.image)[:16, 0], np.float32))
    np.testing.assert_allclose(cached, live, atol=1e-3)


def test_a_filled_cache_is_opened_and_not_filled_again(cfg, params, predict, cache):
    def never(*arguments):
        raise AssertionError("the towers ran")

    again = fill(cfg, params, predict, lower_image=never, lower_text=never)
    np.testing.assert_array_equal(stored(again.image), stored(cache.image))
    np.testing.assert_array_equal(stored(again.text), stored(cache.text))


def test_the_key_changes_with_what_the_states_depend_on_and_with_nothing_else(cfg, params, small_shapes, tmp_path):
    flat = paths.flatten(params)
    key = lower_cache.key(cfg, CROPS, params)

    def nudged(start):
        path = next(path for path in sorted(flat) if path.startswith(start))
        return paths.unflatten({**flat, path: flat[path] + 1e-6})

    vocabulary = tmp_path / "tokenizer.json"
    written = next(small_shapes.rglob("tokenizer.json")).read_text()
    vocabulary.write_text(written.replace('"red"', '"crimson"'))
    others = {
        "image weight": lower_cache.key(cfg, CROPS, nudged("vision/block_00/")),
        "text weight": lower_cache.key(cfg, CROPS, nudged("text/block_00/")),
        "crops": lower_cache.key(cfg, CROPS + 1, params),
        "crop area": lower_cache.key(with_part(cfg, "data", crop_area=(0.4, 1.0)), CROPS, params),
        "flip": lower_cache.key(with_part(cfg, "data", flip=True), CROPS, params),
        "length": lower_cache.key(with_part(cfg, "text", length=12), CROPS, params),
        "vocabulary": lower_cache.key(with_part(cfg, "data", vocabulary=str(vocabulary)), CROPS, params),
        "seed": lower_cache.key(dataclasses.replace(cfg, seed=1), CROPS, params),
        "dtype": lower_cache.key(dataclasses.replace(cfg, compute_dtype="bfloat16"), CROPS, params),
    }
    assert len({key, *others.values()}) == 1 + len(others), others
    for start in ("vision/block_01/", "text/block_01/", "vision/norm", "bridge/", "heads/"):
        assert lower_cache.key(cfg, CROPS, nudged(start)) == key, start
    slower = {name: dataclasses.replace(stage, learning_rate=1e-9) for name, stage in cfg.stages.items()}
    assert lower_cache.key(dataclasses.replace(cfg, stages=slower), CROPS, params) == key
    assert lower_cache.key(with_part(cfg, "bridge", gate_start=0.5), CROPS, params) == key


def test_a_killed_fill_leaves_nothing_that_opens(cfg, params, predict, tmp_path):
    cfg = dataclasses.replace(cfg, cache_dir=str(tmp_path))
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict.lower_text(*arguments)

    with pytest.raises(KeyboardInterrupt):
        fill(cfg, params, predict, lower_text=killed)
    assert [path.suffix for path in tmp_path.iterdir()] == [".filling-0"]
    whole = fill(cfg, params, predict)
    assert [path.suffix for path in tmp_path.iterdir()] == [""]
    assert np.isfinite(stored(whole.text)).all()
    assert np.abs(stored(whole.text)).sum(axis=(1, 2)).min() > 0


def test_states_beyond_float16_are_refused(cfg, params, predict, tmp_path):
    cfg = dataclasses.replace(cfg, cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"the image tower's lower states reach .*; the cache holds float16"):
        fill(cfg, params, predict, lower_image=lambda params, views: np.full((len(views), 5, 32), 7e4))
