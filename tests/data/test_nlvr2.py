"""The builders of statements on files made by hand in the official form, and on the real sample where it is there."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, image, prepared
from bridge_jax.data.datasets import nlvr2
from bridge_jax.data.records import open_split
from configs import shapes
from tools import prepare_data

TRAIN = [
    ("train-5-0-0", "Two dogs run.", "True"),
    ("train-5-0-1", "A dog is left of a cat.", "False"),
    ("train-5-1-0", "Two dogs run.", "False"),
]
DEV = [("dev-850-0-1", "It snows.", "True"), ("dev-850-3-1", "It snows.", "False")]
TEST = [("test1-0-1-0", "One bird sits.", "False")]


def encode(seed, kind="PNG"):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def write(raw, split="train", lines=TRAIN, *, under="images/", directory=42):
    """Write the official file of a split and its photos, train's in the folder of a directory; not all are PNGs."""
    entries = []
    for number, (identifier, sentence, label) in enumerate(lines):
        entry = {"identifier": identifier, "sentence": sentence, "left_url": "http://a", "synset": "dog"}
        entry |= {} if label is None else {"label": label}
        folder = raw / f"{under}{split}"
        if split == "train":
            entry["directory"] = directory
            folder /= str(directory)
        folder.mkdir(parents=True, exist_ok=True)
        pair = identifier.rpartition("-")[0]
        for side in (0, 1):
            path = folder / f"{pair}-img{side}.png"
            if not path.exists():
                seed = [ord(letter) for letter in path.name]
                path.write_bytes(encode(seed, "JPEG" if number % 2 else "PNG"))
        entries.append(json.dumps(entry))
    (raw / f"{split}.json").write_text("\n".join(entries) + "\n")


def data_of(folder, dataset="nlvr2"):
    settings = shapes.get_config("task=nlvr2")
    settings.data.update(dataset=dataset, data_dir=str(folder))
    return config.parse(settings)


def prepare(raw, dataset="nlvr2"):
    return prepare_data.prepare(dataset, str(raw / "out"), raw_dir=str(raw), workers=1)


@pytest.mark.parametrize("under", ["images/", ""])
def test_pairs_come_with_their_statements(tmp_path, under):
    write(tmp_path, under=under)
    write(tmp_path, "dev", DEV, under=under)
    write(tmp_path, "test1", TEST, under=under)
    assert prepare(tmp_path).endswith("train 2, dev 2, test1 1")
    cfg = data_of(tmp_path / "out")
    records = [record for split in ("train", "dev", "test1") for record in open_split(cfg.data, split)]
    assert [record["image_id"] for record in records] == [0, 1, 2, 3, 4]
    first = records[0]
    folder = tmp_path / f"{under}train" / "42"
    assert first["image"] == (folder / "train-5-0-img0.png").read_bytes()
    assert first["second_image"] == (folder / "train-5-0-img1.png").read_bytes()
    assert (first["filename"], first["captions"], first["questions"]) == ("train-5-0-img0.png", [], [])
    said = [(q.name, q.text, q.answers, q.sentence) for record in records for q in record["statements"]]
    sentences = ["train-5-0", "train-5-1", "train-5-0", "dev-850-1", "dev-850-1", "test1-0-0"]
    assert said == [
        (name, text, (label.lower(),), sentence)
        for (name, text, label), sentence in zip([*TRAIN, *DEV, *TEST], sentences, strict=True)
    ]
    ids = [q.id for record in records for q in record["statements"]]
    assert ids == list(range(6))


def test_a_test_set_need_not_say_what_is_true_and_train_has_to(tmp_path):
    write(tmp_path)
    write(tmp_path, "test1", [(name, said, None) for name, said, _ in TEST])
    prepare(tmp_path)
    (record,) = open_split(data_of(tmp_path / "out").data, "test1")
    assert record["statements"][0].answers == ()


def refused(raw, dataset="nlvr2"):
    with pytest.raises(ConfigError) as caught:
        prepare(raw, dataset)
    assert not (raw / "out" / dataset).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit_are_one_clear_line(tmp_path):
    assert f"--raw_dir: no train.json in {tmp_path}; fetch it from https://" in refused(tmp_path)
    write(tmp_path, lines=[("train-5-0-0", "A dog.", None)])
    assert "train.json: line 1 (train-5-0-0) has no label; expected True or False" in refused(tmp_path)
    write(tmp_path, lines=[TRAIN[0], ("train-5-0-1", "A dog.", "Maybe")])
    assert "line 2 (train-5-0-1) has the label 'Maybe'; expected True or False" in refused(tmp_path)
    write(tmp_path, lines=[TRAIN[0], TRAIN[0]])
    assert "line 2: the identifier train-5-0-0 is used twice" in refused(tmp_path)
    write(tmp_path, lines=[("train-5-0", "A dog.", "True")])
    assert "line 1 is not a statement: expected JSON with an identifier and a sentence" in refused(tmp_path)
    (tmp_path / "train.json").write_text('{"identifier": "train-5-0-0"}\n')
    assert "line 1 is not a statement: expected JSON" in refused(tmp_path)
    (tmp_path / "train.json").write_text('{"identifier": \n')
    assert "line 1 is not a statement: expected JSON" in refused(tmp_path)
    write(tmp_path, lines=TRAIN, directory=43)
    for photo in (tmp_path / "images" / "train" / "43").iterdir():
        photo.unlink()
    (tmp_path / "images" / "train" / "43").rmdir()
    assert "--raw_dir: no image folder" in refused(tmp_path)


def many(pairs):
    return [(f"train-{n}-0-0", "A dog.", ("True", "False")[n % 2]) for n in range(pairs)]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_pair_with_a_bad_picture_is_left_out_and_listed(tmp_path, side, fault):
    write(tmp_path, lines=many(100))
    bad = tmp_path / "images" / "train" / "42" / f"train-7-0-img{side}.png"
    content = bad.read_bytes()
    bad.unlink()
    if fault == "truncated":
        bad.write_bytes(content[:200])
    assert prepare(tmp_path).endswith("train 99")
    (listed,) = next((tmp_path / "out").rglob(prepared.SKIPPED)).read_text().splitlines()
    assert listed.startswith(f"{bad}: ")
    names = {q.name for record in open_split(data_of(tmp_path / "out").data, "train") for q in record["statements"]}
    assert names == {name for name, *_ in many(100)} - {"train-7-0-0"}


def test_more_than_one_in_a_hundred_is_too_many(tmp_path):
    write(tmp_path, lines=many(100))
    for number in (7, 8):
        (tmp_path / "images" / "train" / "42" / f"train-{number}-0-img1.png").unlink()
    with pytest.raises(ConfigError, match=r"more than 1% of 100 images are broken \(2 so far, the last: .*img1"):
        prepare(tmp_path)


def test_the_doctor_sees_both_pictures_raw_and_prepared(tmp_path):
    write(tmp_path)
    write(tmp_path, "dev", DEV)

    def kinds(source):
        return {f.kind: f.names for f in doctor.examine(source, nlvr2.Builder, None, workers=1).findings}

    assert kinds(doctor.raw(nlvr2.Builder.survey, tmp_path)) == {}
    prepare(tmp_path)
    right = tmp_path / "images" / "dev" / "dev-850-0-img1.png"
    right.write_bytes((tmp_path / "images" / "train" / "42" / "train-5-0-img1.png").read_bytes())
    (same,) = kinds(doctor.raw(nlvr2.Builder.survey, tmp_path))["same_picture"]
    assert f"{right} (dev)" in same
    right.unlink()
    assert "dev-850-0-img1.png: No such file" in kinds(doctor.raw(nlvr2.Builder.survey, tmp_path))["missing_picture"][0]
    source = doctor.prepared(prepared.folder(tmp_path / "out", nlvr2.Builder))
    assert kinds(source) == {}
    found = doctor.examine(source, nlvr2.Builder, None, workers=1)
    assert (found.sizes, found.captions) == ({"train": 2, "dev": 2}, 5)
    (tmp_path / "train.json").write_text('{"identifier": "x"}\n{"identifier": "y"}\n')
    assert len(kinds(doctor.raw(nlvr2.Builder.survey, tmp_path))["annotations"]) >= 2


def test_the_corpus_of_nlvr_as_it_comes(tmp_path):
    folder = tmp_path / "train" / "images" / "3"
    folder.mkdir(parents=True)
    (folder / "train-12-1-0.png").write_bytes(encode(0))
    entry = {"identifier": "12-1", "directory": "3", "sentence": "There is a tower.", "label": "true"}
    (tmp_path / "train" / "train.json").write_text(json.dumps(entry) + "\n")
    assert prepare(tmp_path, "nlvr").endswith("train 1")
    records = open_split(data_of(tmp_path / "out", "nlvr").data, "train")
    assert records.pictures == 1
    (statement,) = records[0]["statements"]
    assert (statement.name, statement.sentence, statement.answers) == ("12-1", "train-12", ("true",))


def test_the_real_sample_of_nlvr(shared, tmp_path):
    line = prepare_data.prepare("nlvr", str(tmp_path), raw_dir=str(shared / "data" / "nlvr"))
    assert line.endswith("train 600, dev 200")
    records = list(open_split(data_of(tmp_path, "nlvr").data, "dev"))
    statements = [q for record in records for q in record["statements"]]
    assert len(statements) == 200
    assert sum(q.answers == ("true",) for q in statements) == 112
    texts = {(q.sentence, q.text) for q in statements}
    assert len(texts) == len({sentence for sentence, _ in texts}) == 153
    for record in records[:10]:
        picture = Image.open(io.BytesIO(record["image"])).convert("RGB")
        assert picture.size == (400, 100)
        squashed = picture.resize((40, 40), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image.eval_view(record["image"], 40, squash=True), squashed)
