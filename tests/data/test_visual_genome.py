"""Visual Genome from its official files, made by hand: what is read, and every way in which they may be wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, prepared
from bridge_jax.data.datasets import visual_genome
from bridge_jax.data.records import open_splits
from tests.data.bad_inputs import JPEG, encode, picture
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]
PHRASES = {1: ["a red dog", " A red  Dog", "the tail", "the tail"], 2: ["a tree"], 7: []}


def region(image_id, number, phrase):
    return dict(region_id=100 * image_id + number, image_id=image_id, phrase=phrase, x=1, y=2, width=9, height=9)


def write(raw, phrases=None, coco_ids=None):
    """Write a raw folder; photos with an even id lie in the second folder."""
    phrases = PHRASES if phrases is None else phrases
    images, regions = [], []
    for image_id, said in phrases.items():
        url = f"https://cs.stanford.edu/people/rak248/VG_100K/{image_id}.jpg"
        coco_id = (coco_ids or {}).get(image_id)
        images.append(dict(image_id=image_id, width=64, height=48, url=url, coco_id=coco_id, flickr_id=None))
        regions.append({"id": image_id, "regions": [region(image_id, n, phrase) for n, phrase in enumerate(said)]})
        path = raw / ("VG_100K_2" if image_id % 2 == 0 else "VG_100K") / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(seed=image_id), "JPEG"))
    (raw / "image_data.json").write_text(json.dumps(images))
    (raw / "region_descriptions.json").write_text(json.dumps(regions))
    return raw


def prepare(raw, **arguments):
    return prepare_data.prepare("visual_genome", str(raw / "out"), raw_dir=str(raw), workers=2, **arguments)


def records_of(raw):
    (folder,) = (raw / "out").glob("visual_genome/*")
    return list(open_splits(folder)["train"])


def test_every_phrase_is_a_caption_of_the_whole_photo_and_said_once(tmp_path):
    write(tmp_path)
    assert prepare(tmp_path).endswith("train 2")  # nothing is said of the third
    records = records_of(tmp_path)
    assert [(r["image_id"], r["captions"]) for r in records] == [(1, ["a red dog", "the tail"]), (2, ["a tree"])]
    assert records[0]["image"] == (tmp_path / "VG_100K" / "1.jpg").read_bytes()
    assert records[1]["image"] == (tmp_path / "VG_100K_2" / "2.jpg").read_bytes()
    assert records[0]["caption_kinds"] == ["caption", "caption"]


def test_the_id_in_coco_goes_with_the_photo(tmp_path):
    photos = visual_genome.Builder.survey(write(tmp_path, coco_ids={2: 391895}), _raise)["train"]
    assert [(photo.image_id, photo.coco_id) for photo in photos] == [(1, None), (2, 391895)]


def test_few_broken_photos_and_phrases_are_skipped_and_listed(tmp_path):
    phrases = {i: [f"number {i}", *(f"part {n}" for n in range(9))] for i in range(1, 301)}
    phrases[5][3] = "d" * 100_000
    phrases[5][4] = "a dog\x00"
    write(tmp_path, phrases)
    (tmp_path / "VG_100K" / "7.jpg").unlink()
    (tmp_path / "VG_100K_2" / "8.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    assert prepare(tmp_path).endswith("train 298")
    (listed,) = (tmp_path / "out").rglob(prepared.SKIPPED)
    lines = listed.read_text().splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["5.jpg", "5.jpg", "7.jpg", "8.jpg"]
    assert "100000 characters" in lines[0]
    assert "7.jpg: No such file" in lines[2]
    assert {len(r["captions"]) for r in records_of(tmp_path)} == {8, 10}


def test_more_than_one_percent_missing_stops_and_leaves_nothing(tmp_path):
    write(tmp_path, {i: ["a tree"] for i in range(1, 101)})
    for i in (3, 5):
        (tmp_path / "VG_100K" / f"{i}.jpg").unlink()
    with pytest.raises(ConfigError, match="more than 1% of 100 images are broken"):
        prepare(tmp_path)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


IMAGE = '{"image_id": 1, "coco_id": null}'
SAID = '{"id": 1, "regions": [{"phrase": "a"}]}'


@pytest.mark.parametrize(
    ("images", "regions", "says"),
    [
        (None, f"[{SAID}]", "no image_data.json in "),
        (f"[{IMAGE}]", None, "no region_descriptions.json in "),
        ("{oops", f"[{SAID}]", r"image_data\.json is not a Visual Genome file: expected JSON with a list \("),
        ('{"image_id": 1}', f"[{SAID}]", r"image_data\.json is not a Visual Genome file: .* got dict"),
        (f"[{IMAGE}]", "5", r"region_descriptions\.json is not a Visual Genome file: .* got int"),
        (f"[{IMAGE}]", "[" * 100_000, r"region_descriptions\.json is not a Visual Genome file"),
        ("[7]", "[]", "entry 0: expected an `image_id` and a `coco_id`"),
        ('[{"image_id": "../../x", "coco_id": null}]', "[]", "entry 0: expected an `image_id`"),
        ('[{"image_id": 1, "coco_id": "9"}]', "[]", "entry 0: expected an `image_id` and a `coco_id`"),
        (f"[{IMAGE}, {IMAGE}]", "[]", r"image_data\.json: image id 1 is used twice"),
        (f"[{IMAGE}]", f"[{SAID}, {SAID}]", r"region_descriptions\.json: image id 1 is used twice"),
        (f"[{IMAGE}]", '[{"id": 9, "regions": []}]', r"entry 0 belongs to image 9, which image_data\.json lacks"),
        (f"[{IMAGE}]", '[{"id": 1, "regions": [{"phrase": 4}]}]', "entry 0: expected an `id` and `regions`"),
        (f"[{IMAGE}]", '[{"id": 1, "regions": {"phrase": "a"}}]', "entry 0: expected an `id` and `regions`"),
        (f"[{IMAGE}]", '[{"id": "../x", "regions": []}]', "entry 0: expected an `id` and `regions`"),
        (f"[{IMAGE}]", '[{"id": 1, "regions": []}]', "lists no photo"),
    ],
)
def test_files_that_do_not_fit_are_one_clear_line(tmp_path, images, regions, says):
    (tmp_path / "VG_100K").mkdir()
    for name, text in (("image_data.json", images), ("region_descriptions.json", regions)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    (told,) = doctor.raw(visual_genome.Builder.survey, tmp_path).listed.values()
    assert str(caught.value) in told


def test_a_folder_without_photos_is_exit_code_2(tmp_path):
    write(tmp_path / "raw")
    for name in visual_genome.FOLDERS:
        (tmp_path / "raw" / name).rename(tmp_path / name)
    command = [sys.executable, "-m", "tools.prepare_data", "--dataset=visual_genome", f"--data_dir={tmp_path / 'out'}"]
    done = subprocess.run([*command, f"--raw_dir={tmp_path / 'raw'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: --raw_dir: no image folder VG_100K/ or VG_100K_2/ in {tmp_path / 'raw'}"
    ]


def _raise(fault):
    raise ConfigError(fault)
