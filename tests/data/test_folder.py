"""One's own photos, from the forms in which people keep them to prepared splits."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.datasets import folder, photo_builder
from bridge_jax.data.datasets.folder import Options
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.records import open_splits
from tests.data.test_odd_tars import samples, write
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]
ALL = Options(val_share=0, test_share=0)


def photo(number):
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def photos(path, numbers):
    path.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (path / f"{number}.png").write_bytes(photo(number))
    return path


def splits(path, options=ALL):
    found = folder.Builder.survey(path, photo_builder.at_once, options)
    return {split: {p.path.name: list(p.captions) for p in members if not p.fault} for split, members in found.items()}


def listed(path, numbers):
    rows = "".join(f"{number}.png,photo {number}\n" for number in numbers)
    (photos(path, numbers) / "captions.csv").write_text("image,caption\n" + rows)
    return path


def test_columns_are_named_and_a_list_has_any_name(tmp_path):
    raw = photos(tmp_path, [0, 1])
    (raw / "My Photos.csv").write_text("\ufeffNo; File ;Words;Part\n1;0.png;a dog;Training\n2;1.png;a cat;dev\n")
    options = Options(Columns("file", "WORDS", "part"))
    assert splits(raw, options) == {"train": {"0.png": ["a dog"]}, "val": {"1.png": ["a cat"]}}
    with pytest.raises(
        ConfigError, match=r"line 1: expected a column for the picture \(image, .*, got 'No; File ;Words"
    ):
        splits(raw)


def test_a_text_beside_each_photo(tmp_path):
    raw = photos(tmp_path / "deep" / "down", [0, 1, 2]).parents[1]
    (raw / "deep" / "down" / "0.txt").write_bytes(b"\xef\xbb\xbfa dog\r\n\r\n a wet dog \r\n")
    (raw / "deep" / "down" / "1.TXT").write_text("a cat")
    (raw / "README.txt").write_text("nothing about a photo")
    assert splits(raw) == {"train": {"0.png": ["a dog", "a wet dog"], "1.png": ["a cat"]}}
    found = folder.Builder.survey(raw, photo_builder.at_once, ALL)["train"]
    (fault,) = [photo.fault for photo in found if photo.fault]
    assert fault == "no caption: expected 2.txt beside it, with a caption a line"


def test_tars_are_read_too(tmp_path):
    assert list(splits(write(tmp_path / "0.tar", samples(2)))["train"].values()) == [["say 0"], ["say 1"]]


def test_splits_by_content_have_their_shares_and_stay_when_photos_come(tmp_path):
    numbers = range(400)
    before = splits(listed(tmp_path / "a", numbers), Options(val_share=0.2, test_share=0.1))
    assert [abs(len(before[s]) - 400 * share) < 30 for s, share in (("val", 0.2), ("test", 0.1))] == [True, True]
    assert sum(map(len, before.values())) == 400
    after = splits(listed(tmp_path / "b", range(500)), Options(val_share=0.2, test_share=0.1))
    assert all(before[split].items() <= after[split].items() for split in before)
    (tmp_path / "a" / "copy.png").write_bytes(photo(7))
    with (tmp_path / "a" / "captions.csv").open("a") as rows:
        rows.write("copy.png,photo 7 again\n")
    both = splits(tmp_path / "a", Options(val_share=0.2, test_share=0.1))
    assert [("7.png" in members) == ("copy.png" in members) for members in both.values()] == [True] * 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(val_share=0.1, test_share=0), "no photo falls into val; add photos, or change --val_share"),
        (Options(val_share=0.5, test_share=0.5), "--val_share and --test_share: expected less than 1 together"),
        (Options(Columns(split="caption")), "0.png is in split 'photo 0'; expected one of train, val, test"),
    ],
)
def test_splits_that_cannot_be_are_refused(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        splits(listed(tmp_path, [0]), options)


def test_a_photo_in_two_splits_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="lists no photo"):
        splits(tmp_path)
    photos(tmp_path, [0])
    (tmp_path / "a.csv").write_text("image,caption,split\n0.png,a,train\n0.png,b,test\n")
    with pytest.raises(ConfigError, match=r"0\.png is in the splits 'test' and 'train'; leave it in one"):
        splits(tmp_path)


def test_the_commands_prepare_and_examine_it(tmp_path):
    raw = photos(tmp_path / "raw", range(60))
    rows = [
        {"file": f"{n}.png", "words": [f"photo {n}", "again"], "part": "val" if n < 6 else "train"} for n in range(60)
    ]
    (raw / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = [
        "--dataset=folder",
        f"--raw_dir={raw}",
        "--image_column=File",
        "--caption_column=words",
        "--split_column=part",
    ]

    def run(tool, *more):
        command = [sys.executable, "-m", tool, *named, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("tools.prepare_data", f"--data_dir={tmp_path / 'out'}")
    assert done.stdout.endswith(": train 54, val 6\n"), done.stderr
    records = open_splits(prepared.folder(tmp_path / "out", folder.Builder))["val"]
    assert records[5]["captions"] == ["photo 5", "again"]
    seen = run("tools.doctor")
    assert "60 pictures (train 54, val 6), 120 captions" in seen.stdout, seen.stderr


def test_a_name_that_no_file_can_have_is_skipped(tmp_path):
    raw = listed(tmp_path / "raw", range(200))
    with (raw / "captions.csv").open("a") as rows:
        rows.write("a\0b.png,a dog\n")
    said = prepare_data.prepare("folder", str(tmp_path / "out"), raw_dir=str(raw), options=ALL)
    assert said.endswith(": train 200")
    skipped = prepared.folder(tmp_path / "out", folder.Builder) / prepared.SKIPPED
    assert skipped.read_text().endswith("a\0b.png: embedded null byte\n")
