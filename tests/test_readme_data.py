"""The commands of the README and the configs that prepare data other than photos with captions, run as described."""

import json
import sys

import pytest
from PIL import Image

from tests.data.test_pairs import shard, tar
from tests.test_readme import given, name_of, prepares, run


@pytest.mark.parametrize("words", prepares("cc3m", "cc12m"), ids=name_of)
def test_pairs_are_prepared_from_tars(words, tmp_path):
    tar(tmp_path / "00000.tar", shard("ab"))
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith("train 2\n")


@pytest.mark.parametrize("words", prepares("vqav2"), ids=name_of)
def test_questions_are_prepared_from_the_layout_that_is_described(words, tmp_path):
    for number, (subset, asked) in enumerate({"train2014": True, "val2014": True, "test2015": False}.items()):
        folder = tmp_path / "raw" / subset
        folder.mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(folder / f"COCO_{subset}_{number:012d}.jpg")
        question = {"question_id": number, "image_id": number, "question": "is it ?"}
        people = {"question_id": number, "answer_type": "yes/no", "answers": [{"answer": "no"}] * 10}
        files = {f"v2_OpenEnded_mscoco_{subset}_questions.json": {"questions": [question]}}
        files |= {f"v2_mscoco_{subset}_annotations.json": {"annotations": [people]}} if asked else {}
        for name, content in files.items():
            (tmp_path / "raw" / name).write_text(json.dumps(content))
    changed = [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith("train 1, val 1, test 1\n")


@pytest.mark.parametrize("words", prepares("nlvr2", "nlvr"), ids=name_of)
def test_statements_are_prepared_from_the_layout_that_is_described(words, tmp_path):
    dataset, raw = given(words, "dataset"), tmp_path / "raw"
    for split in ("train", "dev", "test1") if dataset == "nlvr2" else ("train", "dev"):
        line = {"identifier": f"{split}-7-0-0", "sentence": "it is .", "label": "True"}
        folder, names = raw / "images" / split, [f"{split}-7-0-img{side}.png" for side in (0, 1)]
        if dataset == "nlvr":
            names = names[:1]
            line |= {"image": f"images/{split}/{names[0]}"}
        elif split == "train":
            line, folder = line | {"directory": 42}, folder / "42"
        folder.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (30, 20)).save(folder / name)
        (raw / f"{split}.json{'l' * (dataset == 'nlvr')}").write_text(json.dumps(line) + "\n")
    changed = [word.replace("=DIR", f"={raw}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    done = run([sys.executable, *changed[1:]])
    assert done.stdout.endswith("train 1, dev 1, test1 1\n" if dataset == "nlvr2" else "train 1, dev 1\n")


@pytest.mark.parametrize("words", prepares("msrvtt"), ids=name_of)
def test_videos_are_prepared_from_the_layout_that_is_described(words, tmp_path):
    folder = tmp_path / "raw" / "frames" / "video7010"
    folder.mkdir(parents=True)
    for number in range(1, 40):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / f"{number:04d}.jpg")
    rows = "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a girl doing gymnastics\n"
    (tmp_path / "raw" / "MSRVTT_JSFUSION_test.csv").write_text(rows)
    changed = [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith("test 1\n")
