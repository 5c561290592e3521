"""SugarCrepe and SugarCrepe++ from their official files: what is read, how an item is scored, every way to be wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.questions import Question
from bridge_jax.data.records import open_splits
from bridge_jax.evals import sugarcrepe
from bridge_jax.evals.asking import Asked
from bridge_jax.step import sharding
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.workdir.checkpoint import Checkpoints
from configs import common
from tests import process, runs
from tests.data.bad_inputs import encode, picture
from tools import prepare_data

PHOTOS = ("000000000139.jpg", "000000000632.jpg", "000000000776.jpg")
WORDS = ("red", "blue", "circle", "square", "left", "of", "a", "large")


def item(number, *, second=False):
    photo, word, other = PHOTOS[number % 3], WORDS[number % 8], WORDS[(number + 3) % 8]
    found = {"filename": photo, "caption": f" a {word} square", "negative_caption": f"a {other} square"}
    return found | ({"caption2": f"one square , {word}"} if second else {})


def write(raw):
    """Write the photos and the files of both benchmarks: a map of items, and a list."""
    for folder in ("val2017", "sugarcrepe", "sugarcrepe_pp"):
        (raw / folder).mkdir(parents=True)
    for seed, name in enumerate(PHOTOS):
        (raw / "val2017" / name).write_bytes(encode(picture(seed=seed), "JPEG"))
    for kind, numbers in {"swap_att": range(5), "replace_obj": range(5, 9)}.items():
        (raw / "sugarcrepe" / f"{kind}.json").write_text(json.dumps({number: item(number) for number in numbers}))
        listed = [{"id": number} | item(number, second=True) for number in numbers]
        (raw / "sugarcrepe_pp" / f"{kind}.json").write_text(json.dumps(listed))
    return raw


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    raw = write(tmp_path_factory.mktemp("raw") / "raw")
    for name in ("sugarcrepe", "sugarcrepe_pp"):
        assert prepare_data.prepare(name, str(raw / "out"), raw_dir=str(raw)).endswith(": test 3")
    return raw / "out"


@pytest.mark.parametrize(("name", "captions"), [("sugarcrepe", 2), ("sugarcrepe_pp", 3)])
def test_a_photo_comes_with_the_captions_of_its_items(data_dir, name, captions):
    (folder,) = data_dir.glob(f"{name}/*")
    records = open_splits(folder)["test"]
    assert {record["filename"] for record in records} == set(PHOTOS)
    statements = [one for record in records for one in record["statements"]]
    assert len({one.id for one in statements}) == len(statements) == 9 * captions
    assert {one.name.rpartition("/")[0] for one in statements} == {"swap_att", "replace_obj"}
    said = [one for one in statements if one.name == "swap_att/1"]
    assert [one.answers for one in said] == [("true",)] * (captions - 1) + [("false",)]
    assert (said[0].text, said[-1].text) == ("a blue square", "a left square")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "sugarcrepe" / "swap_att.json").write_text("[1"), "swap_att.json is no file of SugarCrepe"),
        (lambda raw: (raw / "sugarcrepe" / "swap_att.json").write_text("[3]"), "expected JSON with items by their id"),
        (lambda raw: rewritten(raw, {"1": {"filename": "x.jpg"}}), "item 1: expected a filename, caption and neg"),
        (lambda raw: rewritten(raw, {"1": item(1) | {"filename": "../x.jpg"}}), "'../x.jpg' leaves the folder"),
        (lambda raw: rewritten(raw, [{"id": 1} | item(1)] * 2), "two items have one id"),
        (lambda raw: rewritten(raw, {"1": item(1) | {"filename": "x.jpg"}}), "more than 1% of 4 images are broken"),
        (lambda raw: (raw / "val2017").rename(raw / "val"), "no image folder val2017/"),
        (lambda raw: (raw / "sugarcrepe").rename(raw / "crepe"), "no sugarcrepe/*.json in"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused_by_name(tmp_path, change, message):
    change(write(tmp_path / "raw"))
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare_data.prepare("sugarcrepe", str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"))


def rewritten(raw, content):
    (raw / "sugarcrepe" / "swap_att.json").write_text(json.dumps(content))


def test_an_item_is_right_as_the_benchmarks_count_it():
    """Every true caption must score above the false one; a tie is wrong."""
    answers = {"t": ("true",), "f": ("false",)}
    named = [("a", "t"), ("a", "f"), ("b", "t"), ("b", "t"), ("b", "f"), ("c", "f"), ("c", "t"), ("d", "t"), ("d", "f")]
    texts = [Asked(0, Question(i, "", "k", answers[truth], name)) for i, (name, truth) in enumerate(named)]
    scores = np.array([[2, 1], [1, 2], [3, 3], [1, 3], [2, 2], [0, 1], [1, 0], [1, 1], [1, 0]], float)
    np.testing.assert_array_equal(sugarcrepe.right(texts, scores), [[1, 0], [0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize("design", ["cross", "none"])
def test_items_are_scored_by_towers_and_bridge_and_by_words_alone(tiny, data_dir, design):
    settings = tiny()
    (vocabulary,) = Path(settings.data.data_dir).rglob(prepared.VOCABULARY)
    settings.data.update(dataset="sugarcrepe_pp", data_dir=str(data_dir), vocabulary=str(vocabulary))
    if design == "none":
        settings.bridge.update(design="none", layers=0)
        settings.stages = {name: dict(stage, losses=("itc",)) for name, stage in settings.stages.items()}
        settings.losses = dict(itc=settings.losses.itc)
    settings.evals.sugarcrepe = common.asking(batch_size=4, splits=("test",), bootstrap_samples=20)
    cfg = config.parse(settings)
    evaluator = sugarcrepe.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "sugarcrepe"))
    sugarcrepe.Evaluator.check(cfg)
    params = runs.opened(cfg, "heads")
    metrics = evaluator.final(params, "test", lambda *_: None)
    scores = ("unimodal", "match", "rerank") if design == "cross" else ("unimodal",)
    for score in scores:
        right = metrics[f"sugarcrepe_{score}/accuracy"]
        by_kind = [metrics[f"sugarcrepe_{score}/{kind}/accuracy"] for kind in ("swap_att", "replace_obj")]
        assert 9 * right == pytest.approx(5 * by_kind[0] + 4 * by_kind[1])
        assert metrics[f"sugarcrepe_shuffled_{score}/statements"] == 9
    table = evaluator.table(metrics)
    assert [row[:3] for row in table.rows] == [
        (label, score, number)
        for label, number in (("all", "9"), ("replace_obj", "4"), ("swap_att", "5"))
        for score in scores
    ]


def test_a_run_is_scored_by_the_command(tiny, data_dir, small_shapes, tmp_path):
    saves = Checkpoints(tmp_path / "run")
    cfg = config.parse(tiny())
    saves.save(8, "task", init_params(cfg), None, cfg)
    saves.close()
    (vocabulary,) = small_shapes.rglob(prepared.VOCABULARY)
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}", f"--vocabulary={vocabulary}", "--split=test"]
    given = ["--evaluator=sugarcrepe", "--config.evals.sugarcrepe.bootstrap_samples=20"]
    done = process.run("tools.evaluate", *flags, "--config=configs/sugarcrepe.py", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sugarcrepe/test, step 8" in done.stdout
    assert re.search(r"swap_att +│ rerank +│ +5 │", done.stdout)
    done = process.run("tools.evaluate", *flags, "--evaluator=sugarcrepe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --evaluator: give --config too, a config that has config.evals.sugarcrepe\n"


def test_another_data_set_is_refused(tiny):
    settings = tiny()
    settings.evals.sugarcrepe = common.asking(splits=("val",))
    with pytest.raises(ConfigError, match="has no captions that are known to be false"):
        sugarcrepe.Evaluator.check(config.parse(settings))


def test_the_data_sets_are_known_by_their_names():
    assert {prepared.builder_class(name, "--dataset").name for name in ("sugarcrepe", "sugarcrepe_pp")} == {
        "sugarcrepe",
        "sugarcrepe_pp",
    }
