"""Benchmarks of compositionality, from files with the official names and keys: what is read, how an item is scored."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.records import open_splits
from bridge_jax.evals import compositionality
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
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


@pytest.mark.parametrize("design", ["cross", "none"])
def test_items_are_scored_by_towers_and_bridge_and_by_words_alone(tiny, data_dir, design):
    settings = tiny()
    (vocabulary,) = Path(settings.data.data_dir).rglob(prepared.VOCABULARY)
    settings.data.update(dataset="sugarcrepe_pp", data_dir=str(data_dir), vocabulary=str(vocabulary))
    if design == "none":
        settings.bridge.update(design="none", layers=0)
        settings.stages = {name: dict(stage, losses=("itc",)) for name, stage in settings.stages.items()}
        settings.losses = dict(itc=settings.losses.itc)
    settings.evals.compositionality = common.asking(batch_size=4, splits=("test",), bootstrap_samples=20)
    cfg = config.parse(settings)
    evaluator = compositionality.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "compositionality"))
    compositionality.Evaluator.check(cfg)
    params = runs.opened(cfg, "heads")
    metrics = evaluator.final(params, "test", lambda *_: None)
    scores = ("unimodal", "match", "rerank") if design == "cross" else ("unimodal",)
    for score in scores:
        right = metrics[f"compositionality_{score}/accuracy"]
        by_kind = [metrics[f"compositionality_{score}/{kind}/accuracy"] for kind in ("swap_att", "replace_obj")]
        assert 9 * right == pytest.approx(5 * by_kind[0] + 4 * by_kind[1])
        assert metrics[f"compositionality_shuffled_{score}/statements"] == 9
    table = evaluator.table(metrics)
    assert [row[:3] for row in table.rows] == [
        (label, score, number)
        for label, number in (("all", "9"), ("replace_obj", "4"), ("swap_att", "5"))
        for score in scores
    ]


def test_a_run_is_scored_by_the_command(tiny, data_dir, small_shapes, tmp_path):
    runs.saved(config.parse(tiny()), tmp_path / "run")
    (vocabulary,) = small_shapes.rglob(prepared.VOCABULARY)
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}", f"--vocabulary={vocabulary}", "--split=test"]
    given = ["--evaluator=compositionality", "--config.evals.compositionality.bootstrap_samples=20"]
    done = process.run("tools.evaluate", *flags, "--config=configs/compositionality.py", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sugarcrepe/test, step 1" in done.stdout
    assert re.search(r"swap_att +│ rerank +│ +5 │", done.stdout)
    done = process.run("tools.evaluate", *flags, "--evaluator=compositionality")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --evaluator: give --config too, a config that has config.evals.compositionality\n"
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={small_shapes}", "--split=val"]
    other = ("--config=configs/compositionality.py", "--config.data.dataset=shapes")
    done = process.run("tools.evaluate", *flags, *other, *given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "'shapes' has no captions that are known to be false" in done.stderr


def test_another_data_set_is_refused(tiny):
    settings = tiny()
    settings.evals.compositionality = common.asking(splits=("val",))
    with pytest.raises(ConfigError, match="has no captions that are known to be false"):
        compositionality.Evaluator.check(config.parse(settings))


def photos(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).write_bytes(encode(picture(seed=seed), Path(name).suffix[1:].upper().replace("JPG", "JPEG")))


def write_valse(raw):
    photos(raw / "images" / "swig", "a_1.jpg")
    photos(raw / "images", "b.jpg")
    item = {"image_file": "a_1.jpg", "caption": "A man.", "foil": "No man.", "mturk": {"foil": 0, "caption": 3}}
    unclear = item | {"mturk": {"foil": 2, "caption": 1}}
    items = {"x_0": item, "x_1": item | {"image_file": "b.jpg"}, "x_2": unclear}
    (raw / "valse").mkdir()
    (raw / "valse" / "existence.json").write_text(json.dumps(items))
    return ["existence/x_0", "existence/x_1"], 2


def write_whatsup(raw):
    names = [f"mug_{place}_plate.jpeg" for place in ("left_of", "right_of", "on", "under")]
    photos(raw / "controlled_images", *names)
    photos(raw / "val2017", PHOTOS[0])
    options = [f"A mug {place} a plate" for place in ("left of", "right of", "on", "under")]
    rows = [{"image_path": f"data/controlled_images/{name}", "caption_options": options} for name in names]
    (raw / "controlled_images_dataset.json").write_text(json.dumps(rows))
    (raw / "coco_qa_one_obj.json").write_text(json.dumps([[139, "A photo of a dog on the left", "on the right"]]))
    places = ("sideways/left", "sideways/right", "other/on", "other/under")
    return [*(f"controlled_images_dataset/mug plate/{place}" for place in places), "coco_qa_one_obj/0"], 5


def write_winoground(raw):
    photos(raw / "images", "ex_0_img_0.png", "ex_0_img_1.png")
    item = {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "an old person kisses a young one",
            "caption_1": "a young person kisses an old one", "collapsed_tag": "Object"}  # fmt: skip
    (raw / "examples.jsonl").write_text(json.dumps(item) + "\n")
    return ["winoground/0"] * 2, 2


def write_bivlc(raw):
    (raw / "bivlc").mkdir()
    encoded = [{"bytes": encode(picture(seed=seed), "PNG"), "path": None} for seed in range(4)]
    columns = {"image": encoded[:2], "caption": ["a cat", "a dog"], "negative_caption": ["a cow", "no dog"],
               "negative_image": encoded[2:], "type": ["swap", "add"], "subtype": ["swap_obj", "add_att"]}  # fmt: skip
    parquet.write_table(pa.table(columns), raw / "bivlc" / "test-00000-of-00001.parquet")
    return [f"test-00000-of-00001/{number}" for number in (1, 1, 2, 2)], 4


OTHERS = {"valse": write_valse, "whatsup": write_whatsup, "winoground": write_winoground, "bivlc": write_bivlc}


@pytest.mark.parametrize("name", OTHERS)
def test_official_files_become_photos_with_true_and_false_captions(tmp_path, name):
    (tmp_path / "raw").mkdir()
    expected, count = OTHERS[name](tmp_path / "raw")
    assert prepare_data.prepare(name, str(tmp_path), raw_dir=str(tmp_path / "raw")).endswith(f": test {count}")
    (folder,) = tmp_path.glob(f"{name}/*")
    records = open_splits(folder)["test"]
    about = [[one.name for one in record["statements"]] for record in records]
    assert sorted(set(names).pop() for names in about) == sorted(expected)
    for record in records:
        assert [one.answers for one in record["statements"]].count(("true",)) == 1
    if len(expected) > len(set(expected)):  # two photos an item: each caption is true of one of them
        truths: dict[str, list] = {}
        for record in records:
            for one in record["statements"]:
                truths.setdefault(one.sentence, []).extend(one.answers)
        assert {tuple(sorted(answers)) for answers in truths.values()} == {("false", "true")}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("valse", lambda raw: photos(raw / "images", "a_1.jpg"), "have one name, by which VALSE knows a photo"),
        ("valse", lambda raw: (raw / "valse/existence.json").write_text('{"1": {}}'), "item 1: expected image_file,"),
        ("whatsup", lambda raw: (raw / "coco_qa_one_obj.json").write_text('[[139, "x"]]'), "item 0: expected a photo,"),
        ("whatsup", lambda raw: (raw / "val2017").rename(raw / "val"), "no image folder val2017/"),
        ("winoground", lambda raw: (raw / "examples.jsonl").write_text('{"id": 0}'), "line 1: expected id, image_0,"),
        ("winoground", lambda raw: (raw / "examples.jsonl").unlink(), "no examples.jsonl in"),
        (
            "bivlc",
            lambda raw: parquet.write_table(pa.table({"image": ["x"]}), next(raw.glob("*/*"))),
            "row 1: expected",
        ),
        ("bivlc", lambda raw: next(raw.glob("*/*")).write_bytes(b"PAR1"), "not a whole table"),
    ],
)
def test_another_folder_is_refused_by_name(tmp_path, name, change, message):
    (tmp_path / "raw").mkdir()
    OTHERS[name](tmp_path / "raw")
    change(tmp_path / "raw")
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare_data.prepare(name, str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"))


def test_an_item_with_an_empty_caption_is_skipped_and_counted(tmp_path):
    write(tmp_path / "raw")
    rewritten(tmp_path / "raw", {"1": item(1) | {"negative_caption": " "}})
    with pytest.raises(ConfigError, match=r"more than 1% of 4 images are broken .*swap_att/1: an empty caption"):
        prepare_data.prepare("sugarcrepe", str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"))
