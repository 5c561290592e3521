"""Tars are prepared shard by shard in processes: the same bytes whoever writes them, after any kill, and later."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared, records, tar_index, tar_preparation, tar_shards
from bridge_jax.data.datasets import cc3m, folder, photo_builder, tars
from bridge_jax.data.datasets.folder import Options
from tests.data.test_odd_tars import write
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("FUZZ") == "long"  # twenty kills in place of three
ALL = Options(val_share=0, test_share=0)


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((32, 24), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def tar(raw, name, numbers):
    """Write a tar of a picture and a text for each number."""
    both = [(f"{n}.{kind}", jpeg(n) if kind == "jpg" else b"say %d" % n) for n in numbers for kind in ("jpg", "txt")]
    write(raw / name, both)
    return raw


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    place = tmp_path_factory.mktemp("raw")
    for number in range(5):
        tar(place, f"{number}.tar", range(40 * number, 40 * number + 40))
    return place


def command(raw, out, workers):
    flags = [f"--raw_dir={raw}", f"--data_dir={out}", f"--num_workers={workers}"]
    return [sys.executable, "-m", "tools.prepare_data", "--dataset=folder", *flags]


def contents(out):
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    prepare_data.prepare("folder", str(out), raw_dir=str(raw))
    return contents(out)


def whole(out):
    """Return what tells a shard from one of the same name that was written later."""
    found = [path for path in out.glob("folder/*/folder-*") if path.suffix != ".tmp"]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize(("workers", "seed"), [(2, "0"), (3, "1"), (1, "2")])
def test_workers_and_hash_seed_do_not_show_in_the_bytes(raw, undisturbed, tmp_path, workers, seed):
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command(raw, tmp_path, workers), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*unfinished*"))


def descendants(pid):
    """Return the processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def test_a_killed_preparation_goes_on_and_ends_in_the_same_bytes(raw, undisturbed, tmp_path):
    draw, left, out, before = random.Random(5), 20 if LONG else 3, tmp_path / "0", {}
    while left:
        process = subprocess.Popen(command(raw, out, 2), cwd=ROOT, stderr=subprocess.DEVNULL)
        target = len(before) + draw.randrange(5)
        while process.poll() is None and len(whole(out)) < target:
            time.sleep(0.002)
        time.sleep(draw.random() * (0.02 if target > len(before) else 3 * LONG))
        children = descendants(process.pid)
        process.kill()
        left -= process.wait() == -signal.SIGKILL
        ends = time.monotonic() + 60
        while any(is_alive(child) for child in children):
            assert time.monotonic() < ends, "a process outlives the one that started it"
            time.sleep(0.01)
        assert before.items() <= whole(out).items(), "a whole shard was written again"
        before = whole(out)
        if process.returncode == 0:  # it was done before the kill
            assert contents(out) == undisturbed
            out, before = tmp_path / str(left), {}
    subprocess.run(command(raw, out, 2), cwd=ROOT, check=True, capture_output=True)
    assert before.items() <= whole(out).items()
    assert contents(out) == undisturbed


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def prepare(raw, out, dataset="cc3m", **more):
    line = prepare_data.prepare(dataset, str(out), raw_dir=str(raw), **more)
    return line, prepared.folder(out, prepared.builder_class(dataset, ""))


def test_a_tar_that_is_added_touches_no_shard_and_no_split(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_EXAMPLES", 16)
    raw = tar(tar(tmp_path / "raw", "1.tar", range(60)), "2.tar", range(60, 100))
    line, out = prepare(raw, tmp_path / "out", "folder")
    shards, before = whole(tmp_path / "out"), records.open_splits(out)
    of_split = {split: [dict(record) for record in members] for split, members in before.items()}
    mark = fingerprint(out)
    assert "is prepared already" in prepare(raw, tmp_path / "out", "folder")[0]
    tar(raw, "0.tar", range(100, 140))
    line, _ = prepare(raw, tmp_path / "out", "folder")
    assert shards.items() <= whole(tmp_path / "out").items()
    after = records.open_splits(out)
    assert line.endswith(", ".join(f"{split} {len(members)}" for split, members in after.items()))
    assert {split: list(members)[: len(of_split[split])] for split, members in after.items()} == of_split
    ids = [record["image_id"] for members in after.values() for record in members]
    assert len(set(ids)) == len(ids) == 140
    assert all(fingerprint(out)[split] != mark[split] for split in mark)


def fingerprint(out):
    return dict(tfds.builder_from_directory(out).info.metadata["fingerprint"])


def test_ids_and_splits_follow_the_sample_whichever_tars_are_there(tmp_path):
    both = tar(tar(tmp_path / "both", "n=1/a.tar", range(30)), "n=1/b.tar", range(30, 60))
    one = tar(tmp_path / "one", "n=1/b.tar", range(30, 60))
    found = {}
    for raw in (both, one):
        _, out = prepare(raw, tmp_path / f"out_{raw.name}", "folder", options=Options(val_share=0.3, test_share=0.2))
        of_split = records.open_splits(out).items()
        found[raw] = {(r["image"], split, r["image_id"]) for split, members in of_split for r in members}
    assert len(found[both]) == 60
    assert found[one] < found[both]


def test_the_splits_are_those_of_the_photos_beside_a_list(tmp_path):
    raw, beside = tar(tmp_path / "raw", "0.tar", range(50)), tmp_path / "beside"
    beside.mkdir()
    for number in range(50):
        (beside / f"{number}.jpg").write_bytes(jpeg(number))
        (beside / f"{number}.txt").write_text(f"say {number}")
    _, out = prepare(raw, tmp_path / "out", "folder")
    listed = folder.Builder.survey(beside, photo_builder.at_once)
    found = {split: {r["captions"][0] for r in members} for split, members in records.open_splits(out).items()}
    assert found == {split: {photo.captions[0] for photo in photos} for split, photos in listed.items()}


def test_tars_that_are_named_by_their_split_are_that_split(tmp_path):
    raw = tar(tar(tmp_path / "raw", "train-0.tar", range(9)), "val-0.tar", range(9, 12))
    assert prepare(raw, tmp_path / "out", "folder")[0].endswith(": train 9, val 3")
    with pytest.raises(ConfigError, match=r"val-0\.tar: expected pictures to train on, found the split 'val'; leave"):
        prepare(raw, tmp_path / "out")
    surveyed = folder.Builder.survey(raw, photo_builder.at_once, ALL)
    assert {split: len(photos) for split, photos in surveyed.items()} == {"train": 9, "val": 3}


def test_what_cannot_be_used_is_listed_tar_by_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_EXAMPLES", 64)
    raw = tar(tar(tmp_path / "raw", "0.tar", range(200)), "1.tar", range(200, 300))
    torn = [("y.jpg", jpeg(2)[:300]), ("y.txt", b"say y")]
    write(raw / "2.tar", [("x.jpg", jpeg(1)), *torn, ("z.jpg", jpeg(3)), ("z.txt", b"")])
    line, out = prepare(raw, tmp_path / "out", workers=1)
    assert line.endswith(": train 300")
    listed = (out / prepared.SKIPPED).read_text().splitlines()
    assert listed[0] == f"{raw}/2.tar: sample 'x' has no caption"
    assert listed[1].startswith(f"{raw}/2.tar/y.jpg: Truncated File Read")
    assert listed[2] == f"{raw}/2.tar/z.jpg: an empty caption (number 1 of 1)"
    for number in range(3):
        write(raw / f"{number + 3}.tar", [("x.jpg", b"no"), ("x.txt", b"a")])
    with pytest.raises(
        ConfigError, match=r"more than 1% of 306 images are broken \(4 so far, the last: .*3\.tar/x\.jpg"
    ):
        prepare(raw, tmp_path / "out")


def test_other_flags_or_another_tar_are_refused_once_shards_are_there(tmp_path):
    raw = tar(tmp_path / "raw", "0.tar", range(12))
    prepare(raw, tmp_path / "out", "folder", options=ALL)
    tar(raw, "1.tar", range(12, 24))
    with pytest.raises(
        ConfigError, match=r"was begun with val_share 0, test_share 0: give the same flags to go on, or d"
    ):
        prepare(raw, tmp_path / "out", "folder")
    tar(raw, "0.tar", range(30))
    with pytest.raises(
        ConfigError, match=r"0\.tar is not as it was when .* was begun: put it back, or delete the fold"
    ):
        prepare(raw, tmp_path / "out", "folder", options=ALL)
    (raw / "0.tar").unlink()  # what is prepared needs its tar no more
    assert prepare(raw, tmp_path / "out", "folder", options=ALL)[0].endswith(": train 24")


def test_a_picture_that_changes_meanwhile_is_refused(tmp_path):
    raw = tar(tmp_path / "raw", "0.tar", range(3))
    index = tmp_path / "out" / "index" / "0.tar.parquet"
    tar_index.write(tar_index.Tar(str(raw), "0.tar", str(index)))
    content = (raw / "0.tar").read_bytes()
    (raw / "0.tar").write_bytes(content.replace(jpeg(1)[-99:], bytes(99)))
    with pytest.raises(ConfigError, match=r"0\.tar/1\.jpg has changed since the preparation began: put the tar back"):
        [sample.path.read_bytes() for sample in tar_index.read(index, raw / "0.tar", np.arange(3))]


def test_a_torn_tar_that_is_mended_goes_on_and_a_folder_is_held_by_one(tmp_path):
    raw = tar(tar(tmp_path / "raw", "0.tar", range(9)), "1.tar", range(9, 20))
    content = (raw / "1.tar").read_bytes()
    (raw / "1.tar").write_bytes(content[:2000])
    with pytest.raises(ConfigError, match=r"1\.tar: not a complete tar archive"):
        prepare(raw, tmp_path / "out")
    out = prepared.folder(tmp_path / "out", cc3m.Builder)
    (raw / "1.tar").write_bytes(content)
    with tar_preparation._alone(out), pytest.raises(ConfigError, match=r"is being prepared by another process: wait"):
        prepare(raw, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"was begun with tars: give --raw_dir with them to go on, or delete it"):
        prepare(tmp_path / "empty", tmp_path / "out")
    assert prepare(raw, tmp_path / "out")[0].endswith(": train 20")


def test_a_record_is_what_tfds_would_write():
    record = {"image": jpeg(0), "image_id": 7, "filename": "é.jpg", "captions": ("a", "b"), "scene": ""}
    record |= {"caption_kinds": ("caption", "caption"), "wrong_captions": ()}
    features = prepared.features()
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    slow = serializer.get_tf_example(features.encode_example(record)).SerializeToString(deterministic=True)
    assert tar_shards.serialize(record) == slow


def test_of_two_samples_with_one_id_the_first_has_it_and_all_differ():
    numbers, taken = np.random.default_rng(0).integers(0, 2**64, 60, dtype=np.uint64), np.zeros(8, np.uint8)
    used: set[int] = set()
    for part in (numbers[:40], numbers[40:]):  # two tars, of 64 ids
        wanted = [int(number) % 64 for number in part]
        ids = tar_preparation.free_ids(part, taken).tolist()
        firsts = [place for place, one in enumerate(wanted) if one not in used and one not in wanted[:place]]
        assert [ids[place] for place in firsts] == [wanted[place] for place in firsts]
        assert len(set(ids)) == len(ids)
        assert not used & set(ids)
        used |= set(ids)
    assert int(np.bitwise_count(taken).sum()) == 60


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_entries_are_read_as_tarfile_reads_them(tmp_path, form):
    long, names = "d" * 90 + "/" + "n" * 90, ["a.jpg", "d/é.jpg", "x y.jpg"]
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as archive:
        for name in [*names, f"{long}.jpg"]:
            entry = tarfile.TarInfo(name)
            entry.size = 600
            archive.addfile(entry, io.BytesIO(bytes(600)))
    with tarfile.open(tmp_path / "0.tar") as slow, tarfile.open(tmp_path / "0.tar", tarinfo=tars._Entry) as fast:
        read = [[(e.name, e.size, e.offset_data, e.isfile()) for e in archive] for archive in (slow, fast)]
    assert read[0] == read[1]
    assert len(read[0]) == 4
