"""Visual entailment from its official files to its results: builder, loss, a run, and that it learns to look."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bridge_jax import config
from bridge_jax.config import ConfigError, evaluators
from bridge_jax.data import doctor, pipeline, prepared, records
from bridge_jax.data.datasets.snli_ve import LABELS
from bridge_jax.losses import snli_ve
from bridge_jax.run import origin
from bridge_jax.step import sharding, train_step
from bridge_jax.step.batch import abstract_batch
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Batch, Outputs
from bridge_jax.workdir.checkpoint import Checkpoints
from configs import common
from tests import runs
from tools import prepare_data

SPLITS = ("train", "dev", "test")
pytestmark = pytest.mark.usefixtures("keep_compilation_cache")


def lines_of(record, photo):
    """A scene entails its caption, contradicts one that is false of it, and leaves open what is no caption at all."""
    said = [record["captions"][0], record["questions"][0].text, record["wrong_captions"][0]]
    labels = ("entailment", "neutral", "contradiction")
    for number, (sentence, label) in enumerate(zip(said, labels, strict=True)):
        yield {"Flickr30K_ID": photo, "pairID": f"{photo}.jpg#{number}", "sentence2": sentence, "gold_label": label}


@pytest.fixture(scope="module")
def raw(small_shapes, tmp_path_factory):
    """Official files about scenes of shapes: twelve pictures a split, as PNGs that are called .jpg."""
    folder = tmp_path_factory.mktemp("snli_ve")
    (folder / "flickr30k-images").mkdir()
    scenes = records.open_splits(prepared.folder(small_shapes, prepared.builder_class("shapes", "")))["train"]
    for index, split in enumerate(SPLITS):
        lines = []
        for place in range(4 * index, 4 * index + 12):
            photo = f"{split}{place}"
            (folder / "flickr30k-images" / f"{photo}.jpg").write_bytes(scenes[place]["image"])
            lines += lines_of(scenes[place], photo)
        lines.append(lines[-1] | {"pairID": "x", "gold_label": "-"})
        (folder / f"snli_ve_{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def cfg(tiny, raw, small_shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert prepare_data.prepare("snli_ve", str(folder), raw_dir=str(raw)).endswith("train 12, dev 12, test 12")
    settings = tiny()
    vocabulary = next(small_shapes.rglob(prepared.VOCABULARY))
    settings.data.update(dataset="snli_ve", data_dir=str(folder), eval_split="dev", vocabulary=str(vocabulary))
    settings.losses = dict(snli_ve=dict(weight=1.0))
    quick = dict(steps=4, batch_size=8, learning_rate=1e-3)
    settings.stages = dict(task=common.stage(**quick, losses=("snli_ve",), train=common.EVERYTHING))
    settings.stage_order = ("task",)
    del settings.evals.retrieval
    settings.evals.snli_ve = common.asking(every_steps=2, batch_size=16, splits=("dev",), bootstrap_samples=20)
    return config.parse(settings)


def test_photos_come_with_their_statements_but_those_that_nobody_agrees_on(cfg, raw):
    record = pipeline.open_split(cfg.data, "dev")[2]
    assert record["image"] == (raw / "flickr30k-images" / "dev6.jpg").read_bytes()
    assert [one.name for one in record["statements"]] == [f"dev6.jpg#{number}" for number in range(3)]
    assert [one.answers for one in record["statements"]] == [("entailment",), ("neutral",), ("contradiction",)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold_label": "perhaps"}, r"line 1 \(a\) has the label 'perhaps'; expected contradiction, neutral"),
        ({"Flickr30K_ID": "../a"}, r"line 1: the photo '\.\./a' lies outside the folder"),
        ({"sentence2": None}, r"line 1 is not a statement: expected JSON with Flickr30K_ID"),
    ],
)
def test_lines_that_cannot_be(tmp_path, change, says):
    (tmp_path / "flickr30k-images").mkdir()
    line = {"Flickr30K_ID": "1", "pairID": "a", "sentence2": "It snows.", "gold_label": "neutral"}
    for split in SPLITS:
        (tmp_path / f"snli_ve_{split}.jsonl").write_text(json.dumps(line | change) + "\n")
    with pytest.raises(ConfigError, match=says):
        prepare_data.prepare("snli_ve", str(tmp_path / "out"), raw_dir=str(tmp_path))
    (tmp_path / "snli_ve_test.jsonl").unlink()
    found = doctor.raw(prepared.builder_class("snli_ve", "").survey, tmp_path)
    assert any("no snli_ve_test.jsonl" in fault for fault in found.listed["annotations"])


def test_the_loss_equals_the_loop():
    draw = np.random.default_rng(0)
    logits, label = draw.normal(size=(5, 3)).astype(np.float32), np.array([0, 2, 1, 1, 0])
    batch = Batch(image_ids=np.arange(5), text_mask=np.ones((5, 2), bool), extras={"entailment_label": label})
    found = snli_ve.loss(Outputs(logit_scale=1.0, own={"snli_ve": logits}), batch)
    logs = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    assert found.sum == pytest.approx(-logs[np.arange(5), label].sum(), rel=1e-5)
    assert found.count == 5
    assert found.metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=-1) == label))


def test_a_run_is_watched_and_scored_by_its_evaluator(whole):
    workdir, result = whole
    assert {"dev/snli_ve/accuracy_low", "dev/shuffled/accuracy"} <= result.keys()
    assert result["dev/majority/accuracy"] == pytest.approx(100 / 3)
    saves = Checkpoints(workdir, read_only=True)
    scores = {"stage_index": 0.0, "snli_ve_accuracy": runs.logged(workdir)[4, "eval/snli_ve/accuracy"]}
    assert saves.scores(4) == scores


def test_the_results_name_every_statement(whole, cfg):
    mesh = sharding.make_mesh(cfg.mesh)
    params = origin.initial(dataclasses.replace(cfg, init_from=str(whole[0])), mesh)
    evaluator = evaluators.build("snli_ve", cfg, build_predict(cfg, mesh, "snli_ve"))
    written, count = evaluator.results(params, "test", lambda *_: None)
    names, said = zip(*(line.split(",") for line in written.splitlines()), strict=True)
    assert names == tuple(f"test{place}.jpg#{number}" for place in range(8, 20) for number in range(3))
    assert (len(names), set(said) <= set(LABELS)) == (count, True)


def test_data_without_labels_is_refused(cfg, small_shapes):
    data = dataclasses.replace(cfg.data, dataset="shapes", data_dir=str(small_shapes), eval_split="val")
    with pytest.raises(ConfigError, match="'shapes' has no statements with the labels contradiction, neutral, ent"):
        evaluators.check(dataclasses.replace(cfg, data=data))


def test_a_handful_of_statements_is_learned_from_their_pictures(cfg):
    stage = dataclasses.replace(cfg.stages["task"], steps=200, batch_size=12)
    quiet = {side: dataclasses.replace(getattr(cfg, side), dropout=0.0) for side in ("vision", "text")}
    cfg = dataclasses.replace(cfg, stages={"task": stage}, **quiet)
    mesh = sharding.make_mesh(cfg.mesh)
    batch = dataclasses.replace(pipeline.train(cfg, stage, seed_stream="test")[0], broken=None)
    planned = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_batch(cfg, cfg.stages["task"]))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == planned
    # Four texts, each right of one picture and wrong of another, and a fifth that four leave open: words alone get 8.
    pictures, texts = [0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    said = {name: getattr(batch, name)[texts] for name in ("ids", "text_mask")}
    extras = {"entailment_label": np.array([2, 0, 0, 2, 2, 0, 0, 2, 1, 1, 1, 1], np.int32)}
    batch = dataclasses.replace(batch, images=batch.images[pictures], **said, extras=extras)
    stage_step = train_step.build(cfg, cfg.stages["task"], 0, mesh)
    state = stage_step.init(jnp.int32(0), origin.initial(cfg, mesh))
    for _ in range(stage.steps):
        state, metrics = stage_step.train_step(state, sharding.put_batch(batch, mesh))
    assert metrics["snli_ve/accuracy"] == 1
    others = dataclasses.replace(batch, images=batch.images[[1, 0, 3, 2, 5, 4, 7, 6, 8, 9, 10, 11]])
    assert stage_step.train_step(state, sharding.put_batch(others, mesh))[1]["snli_ve/accuracy"] == pytest.approx(
        4 / 12
    )
