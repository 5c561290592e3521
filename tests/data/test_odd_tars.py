"""Webdataset tars as people have them: each sample is read, or skipped and listed by name."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.datasets import cc3m, photo_builder
from bridge_jax.data.records import open_splits
from tools import prepare_data

ROOT = Path(__file__).resolve().parents[2]


def picture(number=0, kind="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 90, 30)).save(out, kind)
    return out.getvalue()


def write(path, members):
    """Write a tar of (name, content); a name may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path.parent


def samples(count, without=()):
    both = [(f"{i:04d}.{e}", picture(i) if e == "jpg" else b"say %d" % i) for i in range(count) for e in ("jpg", "txt")]
    return [member for member in both if member[0] not in without]


def surveyed(raw):
    photos = cc3m.Builder.survey(raw, photo_builder.at_once)["train"]
    return [(p.path.name.partition("/")[2], *p.captions) for p in photos if not p.fault], [
        p.fault for p in photos if p.fault
    ]


def test_samples_come_in_the_order_of_the_archive_whatever_the_hash_seed(tmp_path):
    raw = write(tmp_path / "0.tar", samples(6)[::-1])
    program = (
        "import sys; from pathlib import Path; from bridge_jax.data.datasets import cc3m, photo_builder\n"
        "photos = cc3m.Builder.survey(Path(sys.argv[1]), photo_builder.at_once)['train']\n"
        "print([(p.image_id, *p.captions) for p in photos])"
    )
    for seed in "01":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(raw)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == str([(i, f"say {5 - i}") for i in range(6)])


def test_one_sample_of_two_hundred_may_lack_its_caption(tmp_path):
    raw = write(tmp_path / "raw" / "0.tar", samples(200, without=("0007.txt",)))
    prepare_data.prepare("cc3m", str(tmp_path / "out"), raw_dir=str(raw))
    records = prepared.folder(tmp_path / "out", cc3m.Builder)
    assert len(open_splits(records)["train"]) == 199
    assert (records / prepared.SKIPPED).read_text() == f"{raw}/0.tar: sample '0007' has no caption\n"


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([("x.jpg", picture()), ("x.json", b'{"caption": null}')], "sample 'x' has no caption: `caption` is None"),
        ([("x.jpg", picture()), ("x.json", b'{"caption": 7}')], "sample 'x' has no caption: `caption` is 7"),
        (
            [("x.jpg", picture()), ("x.json", b'{"text": "a"}')],
            "sample 'x' has no caption: expected JSON with `caption`",
        ),
        ([("x.jpg", picture()), ("x.json", b"{oops")], "sample 'x' has no caption: expected JSON with `caption`"),
        ([("x.txt", b"a"), ("x.mp4", b"")], "sample 'x' has no picture"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path, members, fault):
    assert surveyed(write(tmp_path / "0.tar", [*samples(1), *members])) == ([("0000.jpg", "say 0")], [fault])


@pytest.mark.parametrize("kind", ["gif", "webp", "bmp", "tiff", "avif"])
def test_every_kind_of_picture_that_can_be_decoded_is_read(tmp_path, kind):
    raw = write(tmp_path / "raw" / "0.tar", [(f"x.{kind.upper()}", picture(3, kind)), ("x.txt", b"a red square")])
    prepare_data.prepare("cc3m", str(tmp_path / "out"), raw_dir=str(raw))
    (record,) = open_splits(prepared.folder(tmp_path / "out", cc3m.Builder))["train"]
    assert (record["image"], record["captions"]) == (picture(3, kind), ["a red square"])


@pytest.mark.parametrize("second", [("0000.jpg", "0000.txt"), ("0000.png",), ("0000.seg.png",)])
def test_of_a_sample_that_is_there_twice_the_first_counts(tmp_path, second):
    again = [(name, b"second" if name.endswith("txt") else picture(200)) for name in second]
    read, (fault,) = surveyed(write(tmp_path / "0.tar", [*samples(1), *again]))
    assert read == [("0000.jpg", "say 0")]
    assert fault.startswith("sample '0000' is there twice (0000.jpg, 0000.")
    (photo, _) = cc3m.Builder.survey(tmp_path, photo_builder.at_once)["train"]
    assert photo.path.read_bytes() == picture(0)


def test_several_captions_and_other_files(tmp_path):
    told = json.dumps({"caption": ["a", " b "]}).encode()
    others = [("._x.jpg", b"mac"), ("._x.txt", b"mac"), ("x.npy", b""), ("__index__", b"")]
    assert surveyed(write(tmp_path / "0.tar", [("x.jpg", picture()), ("x.json", told), *others])) == (
        [("x.jpg", "a", "b")],
        [],
    )


def test_a_sample_may_have_its_names_in_either_form(tmp_path):
    names = [unicodedata.normalize(form, f"é.{kind}") for form, kind in (("NFC", "jpg"), ("NFD", "txt"))]
    assert surveyed(write(tmp_path / "0.tar", list(zip(names, (picture(), b"a"), strict=True))))[1] == []


def test_tars_in_folders_are_read_and_compressed_ones_refused(tmp_path):
    assert surveyed(write(tmp_path / "a" / "1" / "0.tar", samples(1)).parent)[0] == [("0000.jpg", "say 0")]
    packed = gzip.compress((tmp_path / "a" / "1" / "0.tar").read_bytes())
    for name, says in (
        ("0.tar.gz", "is compressed, and pictures are read where they lie"),
        ("0.tar", "if it is compr"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(packed)
        with pytest.raises(ConfigError, match=says):
            surveyed(tmp_path / name)
