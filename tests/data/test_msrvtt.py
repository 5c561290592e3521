"""MSR-VTT from a raw folder made by hand: which frames of a video are kept, and what is done about those missing."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, image, pipeline, prepared
from bridge_jax.data.datasets import msrvtt
from bridge_jax.data.records import Split, broken_part, open_split, pictures
from configs import msrvtt as msrvtt_config
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]
PX = 32


def jpeg(value: int) -> bytes:
    """A picture whose grey says which frame it is; every one has bytes of its own."""
    out = io.BytesIO()
    Image.new("L", (24, 16), value % 256).convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()


def write(raw: Path, videos: dict[str, int], name: str = "{:04d}.jpg", sentence: str = "a dog in {}") -> Path:
    """Write a 1k-A list and so many frames of every video, numbered from 1 as ffmpeg does."""
    for number, (video, count) in enumerate(videos.items()):
        folder = raw / "frames" / video
        folder.mkdir(parents=True)
        for frame in range(1, count + 1):
            (folder / name.format(frame)).write_bytes(jpeg(40 * number + 3 * frame))
    with (raw / "MSRVTT_JSFUSION_test.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("key", "vid_key", "video_id", "sentence"))
        rows.writerows((f"ret{n}", f"msr{n}", video, sentence.format(video)) for n, video in enumerate(videos))
    return raw


def prepare(raw: Path, frames: int = 3) -> str:
    return prepare_data.prepare("msrvtt", str(raw / "out"), raw_dir=str(raw), num_frames=frames)


def settings(raw: Path) -> config.Config:
    made = msrvtt_config.get_config()
    made.vision.update(image_px=PX, position_grid=2)
    made.data.data_dir = str(raw / "out")
    return config.parse(made)


def records_of(raw: Path, split: str = "test") -> Split:
    return open_split(settings(raw).data, split)


def kept(raw: Path, video: str, names: list[str]) -> list[bytes]:
    return [(raw / "frames" / video / name).read_bytes() for name in names]


def test_a_record_is_a_video_of_the_frames_in_the_middle_of_equal_parts(tmp_path):
    write(tmp_path, {"video7020": 9, "video7": 30})
    assert prepare(tmp_path).endswith("test 2")
    first, second = records = records_of(tmp_path)
    assert (records.frames, records.pictures) == (3, 3)
    assert (first["filename"], first["captions"], first["caption_kinds"]) == (
        "video7020",
        ["a dog in video7020"],
        ["caption"],
    )
    assert pictures(first) == kept(tmp_path, "video7020", ["0002.jpg", "0005.jpg", "0008.jpg"])
    assert pictures(second) == kept(tmp_path, "video7", ["0006.jpg", "0016.jpg", "0026.jpg"])
    assert pictures(first, 2) == pictures(first)[:2]
    assert (first["image_id"], second["image_id"]) == (0, 1)


def test_the_pipeline_gives_all_frames_of_a_video_in_order(tmp_path):
    write(tmp_path, {"video1": 9, "video2": 9})
    prepare(tmp_path)
    cfg = settings(tmp_path)
    ((found, ids, valid),) = pipeline.images(cfg, "test", 3, count=records_of(tmp_path).frames)
    assert (found.shape, ids.tolist(), valid.tolist()) == ((3, 3, PX, PX, 3), [0, 1, 1], [True, True, False])
    for row, record in enumerate(records_of(tmp_path)):
        for frame, encoded in enumerate(pictures(record)):
            np.testing.assert_array_equal(found[row, frame], image.eval_view(encoded, PX))
    assert len({view.tobytes() for view in found[:2].reshape(6, -1)}) == 6


def test_one_frame_is_a_photo(tmp_path):
    write(tmp_path, {"video1": 9})
    prepare(tmp_path, frames=1)
    records = records_of(tmp_path)
    assert (records.frames, records.pictures) == (1, 1)
    assert pictures(records[0]) == kept(tmp_path, "video1", ["0005.jpg"])
    assert "later_frames" not in records[0]


def test_a_short_video_shows_frames_twice(tmp_path):
    write(tmp_path, {"video1": 2})
    prepare(tmp_path, frames=4)
    assert pictures(records_of(tmp_path)[0]) == kept(tmp_path, "video1", ["0001.jpg"] * 2 + ["0002.jpg"] * 2)


def test_numbers_without_zeros_are_in_their_order(tmp_path):
    write(tmp_path, {"video1": 12}, name="video1_{}.jpg")
    found = msrvtt.ordered_frames(tmp_path / "frames" / "video1")
    assert [path.name for path in found] == [f"video1_{n}.jpg" for n in range(1, 13)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 30, 60, 120, 150), (0, 30, 60, 90, 120, 150)),  # every thirtieth, one of them lost
        ((3, 4, 5, 7), (3, 4, 5, 6, 7)),
        ((1, 2, 40, 55, 90), (1, 2, 40, 55, 90)),  # key frames, wherever they were
        ((1, 4, 6, 9), (1, 4, 6, 9)),
        ((5,), (5,)),
    ],
)
def test_a_gap_in_the_numbers_is_a_missing_frame(tmp_path, numbers, expected):
    for number in numbers:
        (tmp_path / f"{number:05d}.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in msrvtt.ordered_frames(tmp_path)] == [f"{number:05d}.jpg" for number in expected]


def test_names_without_numbers_are_in_the_order_of_names(tmp_path):
    for name in ("b.jpg", "a.jpg", "10.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in msrvtt.ordered_frames(tmp_path)] == ["10.png", "a.jpg", "b.jpg"]


FAULTS = {
    "missing": (lambda folder: (folder / "0005.jpg").unlink(), "0005.jpg: No such file or directory"),
    "truncated": (lambda folder: (folder / "0005.jpg").write_bytes(jpeg(15)[:200]), "0005.jpg: "),
    "no_frames": (lambda folder: shutil.rmtree(folder), "*.jpg: No such file or directory"),
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "*.jpg: No such file or directory"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_video_with_a_bad_frame_is_left_out_and_listed_within_one_percent(tmp_path, fault):
    write(tmp_path, {f"video{n}": 9 for n in range(100)})
    damage, says = FAULTS[fault]
    damage(tmp_path / "frames" / "video7")
    assert prepare(tmp_path).endswith("test 99")
    (listed,) = next((tmp_path / "out").rglob(prepared.SKIPPED)).read_text().splitlines()
    assert listed.startswith(f"{tmp_path / 'frames' / 'video7'}/{says}")
    assert {record["filename"] for record in records_of(tmp_path)} == {f"video{n}" for n in range(100) if n != 7}


def test_a_missing_frame_that_is_not_wanted_does_no_harm(tmp_path):
    write(tmp_path, {"video1": 9})
    (tmp_path / "frames" / "video1" / "0006.jpg").unlink()
    prepare(tmp_path)
    assert pictures(records_of(tmp_path)[0]) == kept(tmp_path, "video1", ["0002.jpg", "0005.jpg", "0008.jpg"])


def test_the_tool_names_video_and_frame_in_one_line_and_exits_with_two(tmp_path):
    write(tmp_path, {f"video{n}": 9 for n in range(20)})
    (tmp_path / "frames" / "video7" / "0005.jpg").unlink()
    command = [sys.executable, "-m", "tools.prepare_data", "--dataset=msrvtt", "--num_frames=3"]
    command += [f"--raw_dir={tmp_path}", f"--data_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"more than 1% of 20 images are broken \(1 so far, the last: .*frames/video7/0005.jpg: No ", line)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def whole(raw: Path, **changes) -> None:
    content = {
        "videos": [{"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "test", "test"))],
        "sentences": [{"video_id": f"video{n % 3}", "caption": f" said {n}"} for n in range(6)],
    }
    (raw / "MSRVTT_data.json").write_text(json.dumps(content | changes), encoding="utf-8")


def test_the_whole_test_comes_from_the_json(tmp_path):
    write(tmp_path, {"video1": 3, "video2": 3})
    whole(tmp_path)
    assert prepare(tmp_path).endswith("test 2")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "MSRVTT_JSFUSION_test.csv").unlink()
    assert prepare(tmp_path).endswith("test_full 2")
    found = {record["filename"]: record["captions"] for record in records_of(tmp_path, "test_full")}
    assert found == {"video1": ["said 1", "said 4"], "video2": ["said 2", "said 5"]}


def refused(raw: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(raw)
    assert "\n" not in str(caught.value)
    assert not (raw / "out").exists()
    return str(caught.value)


def test_what_cannot_be_read_is_one_clear_line(tmp_path):
    assert "--raw_dir: no folder frames/ in " in refused(tmp_path)
    (tmp_path / "frames").mkdir()
    assert f"neither MSRVTT_JSFUSION_test.csv nor MSRVTT_data.json in {tmp_path}" in refused(tmp_path)
    whole(tmp_path, sentences=None)
    assert "is not a MSRVTT_data.json: expected JSON with `videos` (video_id, split)" in refused(tmp_path)
    whole(tmp_path, videos=[])
    assert "it lists no video" in refused(tmp_path)
    listed = tmp_path / "MSRVTT_JSFUSION_test.csv"
    listed.write_text("key,video,sentence\nret0,video1,a dog\n")
    assert "line 1: expected a column for the picture (video_id) and one for the caption (sentence), got" in refused(
        tmp_path
    )
    listed.write_text("video_id,sentence\n../../etc,a dog\n")
    assert "video_id '../../etc' is not the name of a folder in frames/" in refused(tmp_path)


def test_an_empty_sentence_leaves_its_video_out(tmp_path):
    write(tmp_path, {f"video{n}": 3 for n in range(100)})
    listed = tmp_path / "MSRVTT_JSFUSION_test.csv"
    listed.write_text(listed.read_text().replace("a dog in video7\n", "\n").replace("a dog in video7\r\n", "\r\n"))
    assert prepare(tmp_path).endswith("test 99")


def test_the_doctor_reads_every_frame_raw_and_prepared(tmp_path):
    write(tmp_path, {"video1": 9, "video2": 9})

    def kinds(source):
        return {f.kind: f.names for f in doctor.examine(source, msrvtt.Builder, None, workers=1).findings}

    sizes = {"split_size": ["test: 2 of 1,000"]}
    assert kinds(doctor.raw(msrvtt.Builder.survey, tmp_path)) == sizes
    prepare(tmp_path)
    source = doctor.prepared(prepared.folder(tmp_path / "out", msrvtt.Builder))
    assert kinds(source) == sizes
    (tmp_path / "frames" / "video2" / "0006.jpg").unlink()  # not one of those that are kept
    (missing,) = kinds(doctor.raw(msrvtt.Builder.survey, tmp_path))["missing_picture"]
    assert missing.endswith("frames/video2/0006.jpg: No such file or directory")
    records = records_of(tmp_path)
    spoiled = dict(records[1]) | {"later_frames": [b"", *records[1]["later_frames"][1:]]}
    assert broken_part([spoiled], 0, -1) == ("video2", image.fault(b""), 1.0)


def test_real_photos_as_frames(shared, tmp_path):
    photos = sorted((shared / "data" / "coco" / "train2014").glob("*.jpg"))[:12]
    for number, path in enumerate(photos):
        folder = tmp_path / "frames" / f"video{number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 4:04d}.jpg").symlink_to(path)
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\n" + "".join(f"ret{n},msr{n},video{n},a man\n" for n in range(3))
    )
    assert prepare(tmp_path, frames=2).endswith("test 3")
    for number, record in enumerate(records_of(tmp_path)):
        assert pictures(record) == [photos[4 * number + frame].read_bytes() for frame in (1, 3)]
