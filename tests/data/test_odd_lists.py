"""Lists as people write them: read, or skipped and listed by line, or refused with the line and the reason."""

import io
import json
import unicodedata

import pytest
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, prepared
from bridge_jax.data.datasets import cc3m, photo_builder, photo_records
from bridge_jax.data.records import open_splits
from tools import prepare_data


def jpeg(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "JPEG")
    return out.getvalue()


def folder(path, files, photos=4):
    """Write 0.jpg, 1.jpg, ... and files given as text or bytes."""
    for name, content in ({f"{i}.jpg": jpeg() for i in range(photos)} | files).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def surveyed(path):
    """Return the captions of each picture of a raw folder, and the faults of its skipped lines."""
    photos = cc3m.Builder.survey(path, photo_builder.at_once)["train"]
    assert all(photo.fault or photo.path.is_file() for photo in photos)
    return {p.path.name: list(p.captions) for p in photos if not p.fault}, [p.fault for p in photos if p.fault]


READ = {
    "bom": ("captions.csv", "\ufeffimage,caption\n0.jpg,a dog\n"),
    "capitals": ("captions.csv", "Image,CAPTION\n0.jpg,a dog\n"),
    "spaces": ("captions.csv", " image , caption\n 0.jpg , a dog\n"),
    "semicolons": ("captions.csv", "image;caption\n0.jpg;a dog\n"),
    "quoted_header": ("captions.csv", '\ufeff"Image","Caption"\r\n"0.jpg","a dog"\r\n\r\n'),
    "tsv_bom": ("captions.tsv", "\ufeffImage\tCaption \n0.jpg\ta dog\n"),
    "jsonl_bom": ("captions.jsonl", '\ufeff{"image":"0.jpg","caption":"a dog"}\n'),
    "jsonl_names": ("captions.jsonl", '{" Image":"0.jpg","CAPTION ":" a dog"}\n\n'),
    "file_name": ("metadata.csv", "file_name,text\n0.jpg,a dog\n"),
    "old_mac": ("captions.csv", "image,caption\r0.jpg,a dog\r"),
}


@pytest.mark.parametrize("name", READ)
def test_headers_are_read_with_marks_capitals_and_spaces(tmp_path, name):
    file, content = READ[name]
    assert surveyed(folder(tmp_path, {file: content})) == ({"0.jpg": ["a dog"]}, [])


SEVERAL = {
    "kaggle_flickr8k": ("captions.txt", "image,caption\n0.jpg,A dog .\n0.jpg,A wet dog .\n1.jpg,A cat .\n"),
    "kaggle_flickr30k": (
        "results.csv",
        "image_name| comment_number| comment\n0.jpg| 0| A dog .\n0.jpg| 1| A wet dog .\n1.jpg| 0| A cat .\n",
    ),
    "flickr30k": ("results_20130124.token", "0.jpg#0\tA dog .\n0.jpg#1\tA wet dog .\n1.jpg#0\tA cat .\n"),
    "flickr8k": ("Flickr8k.token.txt", "\ufeff0.jpg#0\tA dog .\r\n0.jpg#1\tA wet dog .\r\n1.jpg#0\tA cat .\r\n"),
    "json": (
        "captions.jsonl",
        '{"image":"0.jpg","caption":["A dog .","A wet dog ."]}\n{"image":"1.jpg","caption":"A cat ."}\n',
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_captions_of_a_picture(tmp_path, name):
    file, content = SEVERAL[name]
    expected = ({"0.jpg": ["A dog .", "A wet dog ."], "1.jpg": ["A cat ."]}, [])
    assert surveyed(folder(tmp_path, {file: content})) == expected


def test_pictures_may_lie_in_the_folder_of_the_published_set(tmp_path):
    raw = folder(tmp_path, {"Images/a.jpg": jpeg(), "captions.txt": "image,caption\na.jpg,A dog .\n"}, photos=0)
    assert surveyed(raw) == ({"a.jpg": ["A dog ."]}, [])


def test_a_tsv_has_no_quotes(tmp_path):
    content = 'image\tcaption\n0.jpg\t"big dog runs\n1.jpg\ta cat\n2.jpg\ta 5" pipe\n3.jpg\tthe "end"\n'
    expected = {"0.jpg": ['"big dog runs'], "1.jpg": ["a cat"], "2.jpg": ['a 5" pipe'], "3.jpg": ['the "end"']}
    assert surveyed(folder(tmp_path, {"captions.tsv": content})) == (expected, [])


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('0.jpg,"a dog\n1.jpg,a cat\n2.jpg,a hat\n', 2),
        ('0.jpg,a cat\n1.jpg,"a dog\n2.jpg,a hat"\n', 3),
        ('0.jpg,a cat\n1.jpg,"a dog\n2.jpg,"a hat"\n', 3),
        ('0.jpg,"one\ntwo"\n1.jpg,a cat\n2.jpg,"a dog\n', 5),
    ],
)
def test_a_quote_that_swallows_rows_is_refused_with_its_line(tmp_path, rows, line):
    raw = folder(tmp_path, {"captions.csv": "image,caption\n" + rows})
    with pytest.raises(
        ConfigError, match=rf"captions\.csv, line {line}: a quote opens here and swallows the next rows"
    ):
        surveyed(raw)


def test_quotes_that_are_right_are_read(tmp_path):
    content = 'image,caption\n0.jpg,"a big, ""wet""\ndog"\n1.jpg,a 5" pipe\n'
    assert surveyed(folder(tmp_path, {"captions.csv": content}))[0] == {
        "0.jpg": ['a big, "wet"\ndog'],
        "1.jpg": ['a 5" pipe'],
    }


GOOD = '{"image":"1.jpg","caption":"a cat"}'
SKIPPED = {
    "large": ("captions.csv", f'image,caption\n0.jpg,"{"x" * 140_000}"\n1.jpg,a cat\n', ""),
    "inner_quote": ("captions.csv", 'image,caption\n0.jpg,"a "w" dog"\n1.jpg,a cat\n', "line 2: a quote within a fie"),
    "comma": ("captions.csv", "image,caption\n0.jpg,a dog, wet\n1.jpg,a cat\n", "line 2: 3 fields under 2 columns"),
    "short": ("captions.csv", "image,caption\n0.jpg\n1.jpg,a cat\n", "line 2: expected a caption of 0.jpg, got"),
    "null": ("captions.jsonl", '{"image":"0.jpg","caption":null}\n' + GOOD, "line 1: expected a caption of 0.jpg"),
    "number": ("captions.jsonl", '{"image":"0.jpg","caption":[7]}\n' + GOOD, "line 1: expected a caption of 0.jpg"),
    "none": (
        "captions.jsonl",
        '{"image":"0.jpg","caption":[]}\n' + GOOD,
        "line 1: expected a caption of 0.jpg, got []",
    ),
    "nameless": ("captions.jsonl", '{"caption":"x"}\n' + GOOD, "line 1: expected the name of a picture"),
    "cut": ("captions.jsonl", GOOD + '\n{"image":"0.', "line 2: expected JSON"),
    "array": ("captions.jsonl", '["0.jpg"]\n' + GOOD, "line 1: expected an object"),
    "token": ("a.token", "0.jpg#0 A dog\n1.jpg#0\ta cat\n", "line 1: expected a name, # and a number"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_one_bad_line_is_skipped_and_listed(tmp_path, monkeypatch, name):
    file, content, says = SKIPPED[name]
    raw = folder(tmp_path / "raw", {file: content})
    captions, faults = surveyed(raw)
    assert captions["1.jpg"] == ["a cat"]
    assert [says in fault for fault in faults] == [True] * bool(says)
    with pytest.raises(ConfigError, match="more than 1% of 2 images are broken"):
        prepare_data.prepare("cc3m", str(tmp_path / "out"), raw_dir=str(raw))
    monkeypatch.setattr(photo_records, "BROKEN_LIMIT", 0.5)
    prepare_data.prepare("cc3m", str(tmp_path / "out"), raw_dir=str(raw))
    records = prepared.folder(tmp_path / "out", cc3m.Builder)
    assert [record["captions"] for record in open_splits(records)["train"]] == [["a cat"]]
    assert (says or "a caption of 140000 characters") in (records / prepared.SKIPPED).read_text()
    found = {
        f.kind: f.names for f in doctor.examine(doctor.raw(cc3m.Builder.survey, raw), cc3m.Builder, None, 1).findings
    }
    assert (says or "a caption of 140000") in found["broken_line" if says else "broken_caption"][0]


def test_a_list_in_another_encoding_or_without_columns_is_refused(tmp_path):
    raw = folder(tmp_path, {"captions.csv": "image,caption\n0.jpg,a\n".encode("utf-16")})
    with pytest.raises(ConfigError, match=r"captions\.csv is UTF-16; save it as UTF-8"):
        surveyed(raw)
    folder(tmp_path, {"captions.csv": "photo,words\n0.jpg,a\n"})
    with pytest.raises(ConfigError, match=r"line 1: expected a column for the picture \(image, .*, got 'photo,words'"):
        surveyed(raw)


@pytest.mark.parametrize(("disk", "said"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_a_name_is_found_in_either_form(tmp_path, disk, said):
    name = {form: unicodedata.normalize(form, "é/café.jpg") for form in ("NFC", "NFD")}
    line = json.dumps({"image": name[said], "caption": "a cup"}, ensure_ascii=False)
    raw = folder(tmp_path, {name[disk]: jpeg(), "captions.jsonl": line}, photos=0)
    assert list(surveyed(raw)[0].values()) == [["a cup"]]


def test_a_name_in_both_forms_is_an_error(tmp_path):
    names = [unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD")]
    raw = folder(tmp_path, dict.fromkeys(names, jpeg()) | {"captions.csv": f"image,caption\n{names[0]},a\n"}, photos=0)
    with pytest.raises(ConfigError, match="is there twice, with composed and with decomposed accents; remove one"):
        surveyed(raw)
