"""Pictures with captions from tars and lists: what is read, and every way in which they may be wrong."""

import csv
import io
import json
import tarfile

import pytest
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import cc3m
from bridge_jax.data.records import open_splits
from tools import prepare_data

NAMES = ("a", "b", "c")


def picture(name):
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (ord(name) % 256, 10, 20)).save(encoded, "PNG")
    return encoded.getvalue()


def tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def shard(names):
    return {
        f"{n}.{kind}": content for n in names for kind, content in (("png", picture(n)), ("txt", f"say {n}".encode()))
    }


def prepared(raw, out):
    prepare_data.prepare("cc3m", str(out), raw_dir=str(raw), workers=2)
    (folder,) = out.glob("cc3m/*")
    return list(open_splits(folder)["train"])


def test_tars_are_read_where_they_lie(tmp_path):
    tar(tmp_path / "00000.tar", shard("ab"))
    extra = {"x/c.json": json.dumps({"caption": "say c"}).encode(), "x/c.png": picture("c")}
    tar(tmp_path / "00001.tar", extra)
    records = prepared(tmp_path, tmp_path / "out")
    assert sorted((r["captions"], r["image"]) for r in records) == [([f"say {n}"], picture(n)) for n in NAMES]
    assert len({record["image_id"] for record in records}) == 3


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "captions.tsv"])
def test_a_list_may_say_several_things_of_a_picture(tmp_path, name):
    (tmp_path / "p").mkdir()
    for n in NAMES:
        (tmp_path / "p" / f"{n}.png").write_bytes(picture(n))
    rows = [
        {"image": f"p/{n}.png", "caption": f"say {n}, {time}", "wrong_caption": f"{time} {n}" if n < "c" else ""}
        for time in ("once", "twice")
        for n in NAMES
    ]
    with (tmp_path / name).open("w", newline="") as out:
        if name.endswith("jsonl"):
            out.write("\n".join(map(json.dumps, rows)))
        else:
            writer = csv.DictWriter(out, tuple(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    records = prepared(tmp_path, tmp_path / "out")
    assert [record["captions"] for record in records] == [[f"say {n}, once", f"say {n}, twice"] for n in NAMES]
    assert [record["wrong_captions"] for record in records] == [["once a", "twice a"], ["once b", "twice b"], []]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"wrong_caption": "say a"}, r"a\.png has 'say a' as a caption and as a wrong one"),
        ({"wrong_caption": ["b", "c"]}, r"line 1: expected one text as `wrong_caption`, got \['b', 'c'\]; give each"),
    ],
)
def test_a_bad_wrong_caption_is_one_clear_line(tmp_path, row, says):
    (tmp_path / "a.png").write_bytes(picture("a"))
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a.png", "caption": "say a"} | row))
    with pytest.raises(ConfigError, match=says):
        prepared(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"../a.png": b"", "../a.txt": b"a"}, r"'\.\./a\.png' is a link or leaves the archive"),
        ({"/etc/a.png": b""}, r"'/etc/a\.png' is a link or leaves the archive"),
        ({"a.png": b"x"}, r"sample 'a' has no caption"),
        ({"a.txt": b"x"}, r"sample 'a' has no picture"),
    ],
)
def test_a_bad_tar_is_one_clear_line(tmp_path, files, says):
    tar(tmp_path / "0.tar", files)
    with pytest.raises(ConfigError, match=says):
        cc3m.Builder.survey(tmp_path, _raise)
    with pytest.raises(ConfigError, match=says):
        prepare_data.prepare("cc3m", str(tmp_path / "out"), raw_dir=str(tmp_path), workers=1)


def test_a_link_in_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        entry = tarfile.TarInfo("a.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(ConfigError, match=r"'a\.png' is a link or leaves the archive"):
        cc3m.Builder.survey(tmp_path, _raise)


def test_half_a_tar_is_refused(tmp_path):
    tar(tmp_path / "0.tar", {"a.png": bytes(3000), "a.txt": b"a"})
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:1500])
    with pytest.raises(ConfigError, match=r"0\.tar: not a complete tar archive"):
        cc3m.Builder.survey(tmp_path, _raise)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"image": "../x.png", "caption": "a"}', r"line 1: '\.\./x\.png' leaves the folder"),
        ('{"image": "x.png"}', r"line 1: expected a caption of x\.png, got None among image"),
        ("{oops", r"line 1: expected JSON"),
        ("", r"captions\.jsonl lists no photo"),
    ],
)
def test_a_bad_list_is_one_clear_line(tmp_path, text, says):
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=says):
        cc3m.Builder.survey(tmp_path, _raise)


def test_a_folder_with_neither_or_both_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"expected \*\.tar, .* or one of captions\.jsonl.* found none of them"):
        cc3m.Builder.survey(tmp_path, _raise)
    tar(tmp_path / "0.tar", shard("a"))
    (tmp_path / "captions.csv").write_text("image,caption\n")
    with pytest.raises(ConfigError, match=r"found 0\.tar, captions\.csv"):
        cc3m.Builder.survey(tmp_path, _raise)


def _raise(fault):
    raise ConfigError(fault)
