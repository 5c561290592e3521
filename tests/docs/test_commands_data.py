"""The commands of the pages and the configs that prepare data other than photos with captions, run as described."""

import io
import json
import re
import shutil
import sys

import pytest
from PIL import Image

from tests.data import test_long_captions, test_nocaps, test_visual_genome
from tests.data.test_held_out import jpeg, photo
from tests.data.test_pairs import shard, tar
from tests.docs.test_commands import given, name_of, photos_for, prepares, run
from tests.evals import test_compositionality, test_zero_shot


def test_every_corpus_has_its_command():
    assert {words[3] for words in prepares("cc3m", "cc12m", "visual_genome")} == {
        f"--dataset={name}" for name in ("cc3m", "cc12m", "visual_genome")
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A data_dir with what is held out, prepared by the commands for it."""
    folder = tmp_path_factory.mktemp("evaluated")
    for words in prepares("coco", "flickr30k"):
        raw = folder / words[3]
        run([sys.executable, *photos_for(words, raw)[1:-1], f"--data_dir={folder / 'data'}"])
    return folder / "data"


@pytest.mark.parametrize(
    "words", [w for w in prepares("cc3m", "cc12m", "visual_genome") if given(w, "held_out")], ids=name_of
)
def test_what_is_pretrained_on_is_prepared_from_the_layout_that_is_described(words, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "data")
    if "--dataset=visual_genome" in words:
        test_visual_genome.write(tmp_path, coco_ids={1: 2})
    else:
        flat = shard("a")["a.png"]  # as the photos that are held out
        tar(tmp_path / "0.tar", {"a.png": flat, "a.txt": b"a", "b.jpg": photo(5), "b.txt": b"a dog"})
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    found = "1 by id and 0 by hash" if "--dataset=visual_genome" in words else "0 by id and 1 by hash"
    splits = "coco/val 1, coco/test 1, flickr30k/val 1, flickr30k/test 1"
    line = run([sys.executable, *changed[1:]]).stdout
    assert line.endswith(f": train 1; left out of train: {found}, copies of pictures in {splits}\n")


@pytest.mark.parametrize(
    "words",
    [
        words
        for words in prepares("cc3m", "cc12m", "visual_genome")
        if not given(words, "held_out") and not given(words, "ray_address")  # tests/data/test_cluster.py has a cluster
    ],
    ids=name_of,
)
def test_what_is_pretrained_on_is_filtered_as_described(words, tmp_path):
    large = Image.open(io.BytesIO(photo(5))).resize((400, 300))
    files = {name: jpeg(large, quality) for name, quality in (("a.jpg", 90), ("b.jpg", 60))} | {"c.jpg": photo(6)}
    tar(tmp_path / "0.tar", files | {f"{name[0]}.txt": b"a dog runs" for name in files})
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    line = run([sys.executable, *changed[1:]]).stdout
    assert ": train 1; filters took: 1 picture with a side under 200 px, 0 pictures of an aspect ratio over 3," in line
    assert line.endswith(", 1 near-duplicate picture\n")


@pytest.mark.parametrize("words", prepares("nocaps"), ids=name_of)
def test_nocaps_is_prepared_from_its_official_files(words, tmp_path):
    test_nocaps.write(tmp_path)
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith(": val 6, test 2\n")


@pytest.mark.parametrize("words", prepares(*test_long_captions.WRITERS), ids=name_of)
def test_long_captions_are_prepared_from_the_official_files(words, tmp_path):
    name = given(words, "dataset")
    test_long_captions.WRITERS[name](tmp_path)
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    line = run([sys.executable, *changed[1:]]).stdout
    assert line.endswith(f": {test_long_captions.PREPARED[name]}\n")


@pytest.mark.parametrize("words", prepares("sugarcrepe", "sugarcrepe_pp", *test_compositionality.OTHERS), ids=name_of)
def test_compositionality_is_prepared_from_the_official_files(words, tmp_path):
    (name,) = [word.partition("=")[2] for word in words if word.startswith("--dataset=")]
    (tmp_path / "raw").mkdir()
    count = 3
    if name in test_compositionality.OTHERS:
        _, count = test_compositionality.OTHERS[name](tmp_path / "raw")
    else:
        test_compositionality.write(tmp_path / "raw")
    changed = [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith(f": test {count}\n")


@pytest.mark.parametrize("words", prepares("imagefolder"), ids=name_of)
@pytest.mark.parametrize(("write", "count"), [(test_zero_shot.write, 13), (test_zero_shot.write_tars, 3)])
def test_classes_are_prepared_from_the_layouts_that_are_described(words, write, count, tmp_path):
    write(tmp_path / "raw")
    changed = [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith(f": test {count}\n")


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


@pytest.mark.parametrize("words", prepares("snli_ve"), ids=name_of)
def test_labelled_statements_are_prepared_from_the_layout_that_is_described(words, tmp_path):
    (folder := tmp_path / "raw" / "flickr30k-images").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(folder / "7.jpg")
    line = {"Flickr30K_ID": "7", "pairID": "7.jpg#0r1n", "sentence2": "it is .", "gold_label": "neutral"}
    for split in ("train", "dev", "test"):
        (tmp_path / "raw" / f"snli_ve_{split}.jsonl").write_text(json.dumps(line) + "\n")
    changed = [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith("train 1, dev 1, test 1\n")


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


@pytest.mark.parametrize("words", [w for w in prepares("folder") if "--raw_dir=DIR" in w], ids=name_of)
def test_own_photos_are_prepared_from_the_list_that_is_described(words, tmp_path):
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    header = "File,Words\n" if given(words, "caption_column") else "File Name,Caption\n"
    (tmp_path / "photos.csv").write_text(header + "".join(f"{number}.png,a dog\n" for number in range(40)))
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    line = run([sys.executable, *changed[1:]]).stdout
    assert sum(int(number) for number in re.findall(r"(?:train|val|test) (\d+)", line)) == 40
