"""The builder of VQA v2 on files made by hand in the official form, and on the real sample where it is there."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import questions
from bridge_jax.data.datasets import photo_builder, vqav2
from bridge_jax.data.records import open_split
from configs import shapes
from tools import prepare_data

ASKED = [(1, 7, "Is it red?"), (2, 8, "How many?"), (3, 7, "What is it?"), (4, 8, "Is it blue?")]
SAID = {
    1: ("yes/no", ["yes"] * 9 + ["no"]),
    2: ("number", ["Two"] * 4 + ["2"] * 3 + ["three"] * 3),
    3: ("other", ["The ball."] * 10),
    4: ("yes/no", ["yes"] * 10),
}
SETTINGS = dict(workers=1, num_answers=3129, min_answer_count=1)


def write(raw, subset, asked=ASKED, said=SAID):
    """Write the two official files of a subset and its photos."""
    entries = [{"question_id": id_, "image_id": image, "question": text} for id_, image, text in asked]
    (raw / f"v2_OpenEnded_mscoco_{subset}_questions.json").write_text(json.dumps({"questions": entries}))
    if said is not None:
        people = [
            {
                "question_id": id_,
                "answer_type": kind,
                "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(s)],
            }
            for id_, (kind, s) in said.items()
        ]
        (raw / f"v2_mscoco_{subset}_annotations.json").write_text(json.dumps({"annotations": people}))
    (raw / subset).mkdir(exist_ok=True)
    for image in {image for _, image, _ in asked}:
        encoded = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), image, np.uint8)).save(encoded, "JPEG")
        (raw / subset / f"COCO_{subset}_{image:012d}.jpg").write_bytes(encoded.getvalue())


def data_of(folder):
    settings = shapes.get_config("task=vqa")
    settings.data.update(dataset="vqav2", data_dir=str(folder))
    return config.parse(settings)


def test_photos_come_with_their_questions_and_answers(tmp_path):
    write(tmp_path, "train2014")
    write(tmp_path, "test2015", asked=[(9, 5, "Why?")], said=None)
    line = prepare_data.prepare("vqav2", str(tmp_path / "out"), raw_dir=str(tmp_path), **SETTINGS)
    assert line.endswith("train 2, test 1")
    cfg = data_of(tmp_path / "out")
    records = list(open_split(cfg.data, "train"))
    assert [(r["image_id"], r["captions"], r["filename"]) for r in records] == [
        (7, [], "COCO_train2014_000000000007.jpg"), (8, [], "COCO_train2014_000000000008.jpg")
    ]  # fmt: skip
    found = {q.id: (q.kind, list(q.answers)) for r in records for q in r["questions"]}
    assert found == SAID
    assert [q.text for q in records[0]["questions"]] == ["Is it red?", "What is it?"]
    (test,) = open_split(cfg.data, "test")
    assert [(q.id, q.text, q.answers) for q in test["questions"]] == [(9, "Why?", ())]
    listed = (next((tmp_path / "out").rglob(questions.ANSWERS))).read_text().splitlines()
    assert listed == ["yes", "2", "ball"]  # two questions, then one each: "Two" and "2" are one answer


@pytest.mark.parametrize(("settings", "listed"), [
    (dict(num_answers=2), ["yes", "2"]), (dict(min_answer_count=2), ["yes"]),
])  # fmt: skip
def test_the_most_frequent_answers_are_kept(tmp_path, settings, listed):
    write(tmp_path, "train2014")
    prepare_data.prepare("vqav2", str(tmp_path / "out"), raw_dir=str(tmp_path), **SETTINGS | settings)
    assert (next((tmp_path / "out").rglob(questions.ANSWERS))).read_text().splitlines() == listed


def refused(raw, **settings):
    with pytest.raises(ConfigError) as caught:
        prepare_data.prepare("vqav2", str(raw / "out"), raw_dir=str(raw), **SETTINGS | settings)
    assert not (raw / "out" / "vqav2").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit_are_one_clear_line(tmp_path):
    assert "no v2_OpenEnded_mscoco_train2014_questions.json in" in refused(tmp_path)
    write(tmp_path, "train2014", said=None)
    assert "has no v2_mscoco_train2014_annotations.json beside it; fetch it from" in refused(tmp_path)
    write(tmp_path, "train2014", said={1: SAID[1]})
    assert "question 2 of v2_OpenEnded_mscoco_train2014_questions.json has no annotation" in refused(tmp_path)
    write(tmp_path, "train2014", said=SAID | {77: SAID[1]})
    assert "answers question 77, which it lacks" in refused(tmp_path)
    write(tmp_path, "train2014")
    assert "--min_answer_count is 5, but no answer is given to so many of the 4" in refused(
        tmp_path, min_answer_count=5
    )
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text('{"annotations": [{"question_id": 1}]}')
    assert "is not a VQA v2 file: expected JSON with a list `annotations`, each with question_id" in refused(tmp_path)


def test_the_real_sample(shared, tmp_path):
    line = prepare_data.prepare(
        "vqav2", str(tmp_path), raw_dir=str(shared / "data" / "vqav2"), **SETTINGS | dict(min_answer_count=2)
    )
    assert line.endswith("train 73")
    asked = [q for record in open_split(data_of(tmp_path).data, "train") for q in record["questions"]]
    assert len(asked) == 112
    assert {len(q.answers) for q in asked} == {10}
    assert {q.kind for q in asked} == {"yes/no", "number", "other"}
    assert (next(tmp_path.rglob(questions.ANSWERS))).read_text().splitlines()[:2] == ["yes", "no"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"question_id": []}, r"question_id \[\]"),
        ({"answers": "yes"}, "answers 'yes'"),
        ({"answers": [{}]}, "'answer'"),
        ({"answers": [7]}, "not subscriptable"),
        ({"answer_type": None}, "answer_type None"),
    ],
)
def test_answers_of_another_type_are_named(tmp_path, changed, says):
    write(tmp_path, "train2014")
    file = tmp_path / "v2_mscoco_train2014_annotations.json"
    entries = json.loads(file.read_text())["annotations"]
    file.write_text(json.dumps({"annotations": [entries[0] | changed, *entries[1:]]}))
    with pytest.raises(ConfigError, match=rf"annotations\.json is not a VQA v2 file: .*{says}"):
        vqav2.Builder.survey(tmp_path, photo_builder.at_once)
