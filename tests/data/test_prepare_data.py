"""Raw folders made by hand in the layouts that users have, prepared and read back without TensorFlow."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline, prepared, shapes, wrong_captions
from bridge_jax.data.datasets import flickr8k, karpathy, photo_builder, photo_records, raw_files
from configs import shapes as shapes_config
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]


def jpeg(value) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), value % 256, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def entry(i, split="train", captions=("a dog", "two cats"), **more):
    sentences = [{"raw": f" {c} ", "tokens": c.split(), "imgid": i, "sentid": 5 * i} for c in captions]
    return {"filename": f"{i}.jpg", "imgid": i, "split": split, "sentences": sentences} | more


def make_raw(folder, entries, images="images", name="flickr8k"):
    folder.mkdir(exist_ok=True)
    for e in entries:
        path = folder / images / e.get("filepath", "") / e["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(e["imgid"]))
    (folder / f"dataset_{name}.json").write_text(json.dumps({"dataset": name, "images": entries}), encoding="utf-8")
    return folder


def data_of(dataset, data_dir) -> config.Data:
    settings = shapes_config.get_config()
    settings.vision.patch_px, settings.vision.position_grid, settings.text.length = 8, 8, 24  # as these tests count
    settings.data.update(dataset=dataset, data_dir=str(data_dir))
    return config.parse(settings).data


def test_flickr8k_is_kept_byte_for_byte_and_in_order(tmp_path):
    entries = [entry(i, split) for i, split in enumerate(("train", "val", "train", "train"))]
    raw, out = make_raw(tmp_path / "raw", entries), tmp_path / "out"
    assert prepare_data.prepare("flickr8k", str(out), raw_dir=str(raw)).endswith("train 3, val 1")
    records = pipeline.open_split(data_of("flickr8k", out), "train")
    assert [record["image_id"] for record in records] == [0, 2, 3]
    assert records[1] == {
        "image": (raw / "images" / "2.jpg").read_bytes(),
        "image_id": 2,
        "filename": "2.jpg",
        "captions": ["a dog", "two cats"],
        "caption_kinds": ["caption", "caption"],
        "wrong_captions": [],
        "scene": "",
        "questions": [],
        "statements": [],
    }
    with pytest.raises(IndexError):
        records[3]
    with pytest.raises(ConfigError, match="no split 'test'"):
        pipeline.open_split(data_of("flickr8k", out), "test")


def test_coco_has_year_folders_its_own_ids_and_restval_in_train(tmp_path):
    entries = [
        entry(i, split, filepath=year, cocoid=900 + i)
        for i, (split, year) in enumerate([("train", "train2014"), ("restval", "val2014"), ("test", "val2014")])
    ]
    raw = make_raw(tmp_path / "raw", entries, images=".", name="coco")
    prepare_data.prepare("coco", str(tmp_path / "out"), raw_dir=str(raw))
    data = data_of("coco", tmp_path / "out")
    assert [r["image_id"] for r in pipeline.open_split(data, "train")] == [900, 901]
    assert [r["image_id"] for r in pipeline.open_split(data, "test")] == [902]


@pytest.mark.parametrize("images", ["flickr30k-images", "images"])
def test_flickr30k_has_either_image_folder(tmp_path, images):
    raw = make_raw(tmp_path / "raw", [entry(0)], images=images, name="flickr30k")
    prepare_data.prepare("flickr30k", str(tmp_path / "out"), raw_dir=str(raw))
    assert len(pipeline.open_split(data_of("flickr30k", tmp_path / "out"), "train")) == 1


def test_many_images_make_many_shards_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_EXAMPLES", 4)
    raw = make_raw(tmp_path / "raw", [entry(i) for i in reversed(range(10))])
    prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw), workers=3)
    data = data_of("flickr8k", tmp_path / "out")
    assert len(list(prepared.prepared_folder(data).glob("*-of-00003"))) == 3
    assert [r["image_id"] for r in pipeline.open_split(data, "train")] == list(reversed(range(10)))


def test_few_broken_images_are_skipped_and_listed(tmp_path):
    raw = make_raw(tmp_path / "raw", [entry(i) for i in range(200)])
    (raw / "images" / "7.jpg").write_bytes(jpeg(7)[:200])
    (raw / "images" / "9.jpg").unlink()
    prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))
    data = data_of("flickr8k", tmp_path / "out")
    ids = [r["image_id"] for r in pipeline.open_split(data, "train")]
    assert ids == [i for i in range(200) if i not in (7, 9)]
    listed = (prepared.prepared_folder(data) / prepared.SKIPPED).read_text(encoding="utf-8").splitlines()
    assert ["7.jpg" in listed[0], "9.jpg" in listed[1], len(listed)] == [True, True, 2]


def test_more_than_one_percent_broken_stops_and_leaves_nothing(tmp_path):
    raw = make_raw(tmp_path / "raw", [entry(i) for i in range(200)])
    for i in (3, 7, 9):
        (raw / "images" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"more than 1% of 200 images are broken \(3 so far, the last: .*9.jpg"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not prepared.folder(tmp_path / "out", prepared.builder_class("flickr8k", "")).exists()


def test_a_prepared_set_is_never_overwritten(tmp_path):
    raw, out = make_raw(tmp_path / "raw", [entry(0), entry(1)]), tmp_path / "out"
    prepare_data.prepare("flickr8k", str(out), raw_dir=str(raw))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    make_raw(raw, [entry(5)])
    line = prepare_data.prepare("flickr8k", str(out), raw_dir=str(raw))
    assert "is prepared already (train 2); nothing done" in line
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(0), entry(1, captions=())], r"image 1.jpg \(images\[1\]\) has no caption"),
        ([entry(0, split="dev")], "image 0.jpg is in split 'dev'; expected one of train"),
        ([entry(3), entry(3)], r"image id 3 is used twice, by 3\.jpg \(train\) and by 3\.jpg \(train\)"),
        ([], "lists no photo"),
        ([{"filename": "0.jpg", "imgid": 0, "split": "train"}], r"images\[0\] has no usable 'sentences'"),
    ],
)
def test_a_split_file_that_cannot_be_is_one_clear_line(tmp_path, entries, message):
    raw = make_raw(tmp_path / "raw", entries)
    (raw / "images").mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_folders_are_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--raw_dir: .*nowhere is not a folder"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(tmp_path / "nowhere"))
    (tmp_path / "raw").mkdir()
    with pytest.raises(ConfigError, match=r"no dataset_flickr8k.json in .*raw"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"))
    (tmp_path / "raw" / "dataset_flickr8k.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match="no image folder images/ or Images/"):
        karpathy.survey(
            tmp_path / "raw" / "dataset_flickr8k.json",
            [tmp_path / "images", tmp_path / "Images"],
            photo_builder.at_once,
        )
    (tmp_path / "raw" / "images").mkdir()
    with pytest.raises(ConfigError, match="is not a Karpathy split file"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"))
    coco = make_raw(tmp_path / "coco", [entry(0, filepath="train2014", cocoid=1)], images=".", name="coco")
    (coco / "train2014" / "0.jpg").unlink()
    (coco / "train2014").rmdir()
    with pytest.raises(ConfigError, match=r"no image folder .*train2014, which dataset_coco.json names"):
        prepare_data.prepare("coco", str(tmp_path / "out"), raw_dir=str(coco))
    assert not (tmp_path / "out").exists()


def test_shapes_records_say_what_their_scene_is(tmp_path):
    prepare_data.prepare("shapes", str(tmp_path), num_train=6, seed=3)
    data, first_id = data_of("shapes", tmp_path), 0
    for split, scenes in shapes.splits(6, 3).items():
        records = pipeline.open_split(data, split)
        assert [record["image_id"] for record in records] == list(range(first_id, first_id + len(scenes)))
        first_id += len(scenes)
        for record, scene in zip(list(records)[:6], scenes, strict=False):
            assert shapes.Scene.from_json(record["scene"]) == scene
            assert list(zip(record["caption_kinds"], record["captions"], strict=True)) == shapes.captions(scene)
            assert wrong_captions.of_record(record) == shapes.wrong_captions(scene)
            assert record["image"] == shapes.render(scene)


def test_the_tool_exits_with_two_and_one_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tools.prepare_data", f"--data_dir={tmp_path}", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    wrong = run("--dataset=flickr8")
    assert wrong.returncode == 2
    assert [line for line in wrong.stderr.splitlines() if line.startswith("error:")] == [
        "error: --dataset: 'flickr8' is not a data set; nearest: 'flickr8k'"
    ]
    assert run("--dataset=coco").returncode == 2
    good = run("--dataset=shapes", "--num_train=2")
    assert good.returncode == 0, good.stderr
    again = run("--dataset=shapes", "--num_train=2")
    assert again.returncode == 0
    assert "prepared already" in again.stdout


def test_writing_and_reading_import_no_tensorflow(tmp_path):
    script = (
        "import sys; from configs import shapes; from bridge_jax import config; from bridge_jax.data import pipeline\n"
        "from tools import prepare_data\n"
        f"s = shapes.get_config(); s.data.data_dir = {str(tmp_path)!r}\n"
        "prepare_data.prepare('shapes', s.data.data_dir, num_train=2, seed=0)\n"
        "records = list(pipeline.open_split(config.parse(s).data, 'val'))\n"
        "print(len(records), [name for name in ('tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["256 []"], done.stderr


@pytest.mark.parametrize(("name", "sizes"), [("coco", "train 64, val 8, test 8")])
def test_real_folders_are_prepared(tmp_path, shared, name, sizes):
    line = prepare_data.prepare(name, str(tmp_path), raw_dir=str(shared / "data" / name))
    assert line.endswith(sizes)
    records = pipeline.open_split(data_of(name, tmp_path), "train")
    assert all(len(record["captions"]) == 5 for record in records)


def test_a_builder_whose_name_is_not_that_of_its_file_is_refused(monkeypatch):
    monkeypatch.setattr(flickr8k.Builder, "name", "album")
    with pytest.raises(ConfigError, match=r"flickr8k\.py: Builder\.name is 'album'; set it to 'flickr8k', the file's"):
        prepared.builder_class("flickr8k", "--dataset")


@pytest.mark.parametrize("name", prepared.names())
def test_the_name_of_a_builder_is_that_of_its_file(name):
    assert prepared.builder_class(name, "").name == name


@pytest.mark.parametrize("number", [0.7, True, None, [1], -1, 1 << 31, float("inf"), float("nan"), "one"])
def test_an_id_that_is_no_whole_number_is_refused(tmp_path, number):
    raw = make_raw(tmp_path / "raw", [entry(0)])
    (raw / "dataset_flickr8k.json").write_text(json.dumps({"images": [entry(0) | {"imgid": number}]}))
    with pytest.raises(ConfigError, match=r"images\[0\] has no usable .*expected a whole number from 0 to 2147483647"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))


@pytest.mark.parametrize("place", [{"filename": "../../outside.jpg"}, {"filename": "/etc/0.jpg"}, {"filepath": ".."}])
def test_a_split_file_that_leaves_its_folder_is_refused(tmp_path, place):
    raw = make_raw(tmp_path / "raw", [entry(0)])
    (raw / "dataset_flickr8k.json").write_text(json.dumps({"images": [entry(0) | place]}))
    with pytest.raises(
        ConfigError, match=r"images\[0\] has no usable place: '.*' leaves the folder; expected a path inside"
    ):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))


def test_an_id_in_two_splits_is_refused(tmp_path):
    raw = make_raw(tmp_path / "raw", [entry(0), entry(1, "val") | {"imgid": 0}])
    with pytest.raises(
        ConfigError, match=r"image id 0 is used twice, by 0\.jpg \(train\) and by 1\.jpg \(val\); ids must"
    ):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path, monkeypatch):
    raw = make_raw(tmp_path / "raw", [*(entry(i) for i in range(200)), entry(200, "val")])
    (raw / "images" / "200.jpg").unlink()
    with pytest.raises(ConfigError, match=r"no picture of the split 'val' is left; give it one or leave it out"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    monkeypatch.setattr(flickr8k.Builder, "survey", classmethod(lambda *_: {"train": [photo], "val": []}))
    photo = photo_records.Photo(raw / "images" / "0.jpg", 0, ("a dog",))
    with pytest.raises(ConfigError, match=r"no picture of the split 'val' is left"):
        prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))


def test_a_text_in_the_place_of_a_list_of_captions_is_refused(tmp_path):
    photo = photo_records.Photo(tmp_path / "0.jpg", 0, cast(Any, "a dog"))
    with pytest.raises(ConfigError, match=r"the captions of 0\.jpg are one text, 'a dog'; expected a list"):
        photo_builder.check({"train": [photo]}, tmp_path / "list", photo_builder.at_once)


def test_a_split_file_may_begin_with_a_byte_order_mark(tmp_path):
    raw = make_raw(tmp_path / "raw", [entry(0)])
    file = raw / "dataset_flickr8k.json"
    file.write_text("\ufeff" + file.read_text())
    assert "train 1" in prepare_data.prepare("flickr8k", str(tmp_path / "out"), raw_dir=str(raw))


def test_lines_of_json_end_where_json_says(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": "x\u2028y"}\n\n{"a": "z\x85"}', encoding="utf-8")
    read = [(number, json.loads(line)["a"]) for number, line in raw_files.lines(tmp_path / "a.jsonl")]
    assert read == [(1, "x\u2028y"), (3, "z\x85")]
