"""Every kind of fault planted in a small set of photos, alone and together, raw and prepared, and found by name."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, prepared, text
from bridge_jax.data.datasets import flickr8k, photo_builder, vqav2
from tests import profiles
from tests.data import bad_inputs
from tests.data.bad_inputs import BROKEN_CAPTIONS, BROKEN_PICTURES, GIF, JPEG, ODD_CAPTIONS, ODD_PICTURES, encode
from tests.data.test_vqav2 import write
from tools import prepare_data

OVERSIZED = {"bomb_20000.png", "bomb_100000.png", "bomb_of_rows.png", "pixels_20000.png"}
GREY = {"grey.jpg", "grey_alpha.png", "one_bit.png", "pixels_20000_narrow.png"}
CMYK = {"cmyk.jpg", "cmyk.tif"}
TRANSPARENT = {"alpha.png", "grey_alpha.png", "palette_transparent.png"}
TURNED = {"exif_3.jpg", "exif_6.jpg", "exif_8.jpg"}
TRAIN, VAL = 4, 2


class Small(flickr8k.Builder, skip_registration=True):
    """Flickr8k, as if it had been published with the photos of `whole`."""

    name = "flickr8k"
    PUBLISHED: ClassVar = {"train": TRAIN, "val": VAL}


@pytest.fixture
def whole(tmp_path):
    return bad_inputs.raw_folder(tmp_path / "raw", TRAIN, {}, held_out=VAL)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*text.SPECIAL, "a", "red", "dog"]))
    return path


def findings(source, builder: type[photo_builder.Builder] = Small, tokenizer=None) -> dict[str, doctor.Finding]:
    found = doctor.examine(source, builder, tokenizer, workers=2).findings
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


def raw_findings(folder, **arguments):
    return findings(doctor.raw(Small.survey, folder), **arguments)


def files(finding: doctor.Finding) -> set[str]:
    return {Path(name.split(": ")[0]).name for name in finding.names}


def edit(folder, change):
    path = folder / "dataset_flickr8k.json"
    entries = json.loads(path.read_text())["images"]
    change(entries)
    path.write_text(json.dumps({"images": entries}))


def put(name, encoded):
    return lambda folder: (folder / "images" / name).write_bytes(encoded)


def say(number, caption):
    return lambda folder: edit(folder, lambda entries: entries[number]["sentences"].append({"raw": caption}))


def profiled(profile):
    return encode(bad_inputs.picture(), "JPEG", icc_profile=profile)


def copy(folder):
    (folder / "images" / "good_0.jpg").write_bytes((folder / "images" / "held_out_1.jpg").read_bytes())


def turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    put("good_0.jpg", encode(bad_inputs.picture(), "JPEG", exif=exif))(folder)


PLANTED = {
    "missing": (lambda folder: (folder / "images" / "good_0.jpg").unlink(), "missing_picture", "good_0.jpg: No such"),
    "truncated": (put("good_1.jpg", JPEG[:-200]), "damaged_picture", "good_1.jpg: image file is truncated"),
    "no_picture": (put("good_1.jpg", b"<html>"), "damaged_picture", "good_1.jpg: no picture in a format"),
    "oversized": (put("good_1.jpg", BROKEN_PICTURES["pixels_20000.png"]), "oversized_picture", "20000 x 4001 pixels"),
    "bomb": (put("good_1.jpg", BROKEN_PICTURES["bomb_20000.png"]), "oversized_picture", "good_1.jpg: Image size (40"),
    "grey": (put("good_2.jpg", ODD_PICTURES["grey.jpg"]), "grey_picture", "images/good_2.jpg"),
    "cmyk": (put("held_out_0.jpg", ODD_PICTURES["cmyk.jpg"]), "cmyk_picture", "images/held_out_0.jpg"),
    "profile": (put("good_2.jpg", profiled(profiles.exchanged())), "profile_picture", "images/good_2.jpg"),
    "bad_profile": (put("good_2.jpg", profiled(b"no profile")), "broken_profile", "images/good_2.jpg"),
    "turned": (turned, "turned_picture", "images/good_0.jpg"),
    "transparent": (put("good_2.jpg", ODD_PICTURES["alpha.png"]), "transparent_picture", "images/good_2.jpg"),
    "empty": (say(3, " "), "broken_caption", "good_1.jpg: an empty caption (number 2 of 2)"),
    "endless": (say(0, "dog " * 25_000), "broken_caption", "held_out_0.jpg: a caption of 99999 characters"),
    "control": (say(0, "a\x00dog"), "broken_caption", "held_out_0.jpg: a caption with the control character U+0000"),
    "encoding": (say(0, "caf\udce9"), "broken_caption", "held_out_0.jpg: a caption that is not UTF-8 (number 2 of 2)"),
    "long": (say(0, "a dog " * 20), "cut_caption", "held_out_0.jpg: 42 tokens (number 2 of 2)"),
    "unknown": (say(0, "a zebra, a dog"), "unknown_word", "zebra (1)"),
    "same_picture": (copy, "same_picture", "good_0.jpg (train)"),
    "same_file": (
        lambda folder: edit(folder, lambda e: e[0].update(filename="good_3.jpg")), "same_picture", "good_3.jpg (val)"
    ),
    "id": (lambda folder: edit(folder, lambda e: e[0].update(imgid=e[3]["imgid"])), "id_collision", "3: "),
    "no_caption": (
        lambda folder: edit(folder, lambda e: e[2].update(sentences=[])), "annotations", "good_0.jpg (images[2]) has no"
    ),
    "sizes": (lambda folder: edit(folder, lambda e: e.pop()), "split_size", "train: 3 of 4"),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_one_fault_is_the_one_finding(whole, vocabulary, planted):
    plant, kind, says = PLANTED[planted]
    tokenizer = text.Tokenizer(vocabulary, length=30)
    assert raw_findings(whole, tokenizer=tokenizer) == {}
    plant(whole)
    found = raw_findings(whole, tokenizer=tokenizer)
    assert list(found) == [kind]
    assert any(says in name for name in found[kind].names), found[kind].names
    assert found[kind].broken == (kind in doctor.BROKEN)


def test_a_picture_twice_in_one_split_is_no_fault(whole):
    put("good_0.jpg", (whole / "images" / "good_1.jpg").read_bytes())(whole)
    assert raw_findings(whole) == {}


def test_an_undecodable_picture_in_two_splits_is_damaged_only(whole):
    for name in ("good_0.jpg", "held_out_0.jpg"):
        put(name, GIF[:100])(whole)
    assert list(raw_findings(whole)) == ["damaged_picture"]


def test_numbers_and_shares(whole, vocabulary):
    say(0, "a zebra and a zebra, a gnu: a dog")(whole)
    found = raw_findings(whole, tokenizer=text.Tokenizer(vocabulary, length=7))
    # the six captions "a red dog", and a zebra and a zebra , a gnu : a dog
    assert found["unknown_word"] == doctor.Finding(
        "unknown_word", 6, 6 * 3 + 11, ["zebra (2)", "and (1)", ", (1)", "gnu (1)", ": (1)"]
    )
    assert (found["cut_caption"].count, found["cut_caption"].total) == (1, 7)
    (whole / "images" / "good_0.jpg").unlink()
    missing = raw_findings(whole)["missing_picture"]
    assert (missing.count, missing.total) == (1, TRAIN + VAL)


def test_all_that_is_broken_or_odd_is_sorted_into_its_kind(tmp_path):
    folder = bad_inputs.raw_folder(tmp_path / "raw", TRAIN, bad_inputs.BROKEN | bad_inputs.ODD, held_out=VAL)
    found = raw_findings(folder)
    assert found.pop("split_size").names == [f"train: {TRAIN + len(bad_inputs.BROKEN | bad_inputs.ODD)} of {TRAIN}"]
    (same,) = found.pop("same_picture").names
    assert [Path(place).name for place in same.split(", ")] == ["held_out_0.jpg (val)", "jpeg_called.png (train)"]
    assert {kind: files(finding) for kind, finding in found.items()} == {
        "oversized_picture": OVERSIZED,
        "damaged_picture": BROKEN_PICTURES.keys() - OVERSIZED,
        "broken_caption": set(BROKEN_CAPTIONS),
        "grey_picture": GREY,
        "cmyk_picture": CMYK,
        "turned_picture": TURNED,
        "transparent_picture": TRANSPARENT,
    }
    assert not files(found["broken_caption"]) & ODD_CAPTIONS.keys()
    assert [finding.broken for finding in found.values()] == sorted(
        (finding.broken for finding in found.values()), reverse=True
    )


def test_every_fault_of_the_split_file_is_told(whole):
    def spoil(entries):
        entries[0]["split"] = "dev"
        entries[1]["sentences"] = []
        entries[3] = {"filename": "3.jpg"}
        entries[4]["filepath"] = "train2014"
        entries[5]["sentences"] = [{"raw": None}]

    edit(whole, spoil)
    told = raw_findings(whole)["annotations"].names
    assert [line.split(": ", 1)[1] for line in told] == [
        "image held_out_0.jpg is in split 'dev'; expected one of train, restval, val, test",
        "image held_out_1.jpg (images[1]) has no caption; write one or delete the image from the file",
        "images[3] has no usable 'imgid'",
        "images[5] has no usable 'NoneType' object has no attribute 'strip'",
        f"no image folder {whole}/images/train2014, which dataset_flickr8k.json names",
    ]


@pytest.mark.parametrize("content", [b"[1]", b'{"images": [', '{"images": [{"raw": "caf\u00e9"}]}'.encode("latin1")])
def test_a_split_file_that_cannot_be_read_is_a_finding(whole, content):
    (whole / "dataset_flickr8k.json").write_bytes(content)
    found = raw_findings(whole)
    assert "is not a Karpathy split file" in found["annotations"].names[0]
    assert found["split_size"].names == ["train: 0 of 4", "val: 0 of 2"]


def test_faults_that_came_after_the_preparation_are_found(tmp_path):
    bad = {"caption_of_spaces.jpg", "truncated_end.jpg", "grey.jpg"}
    every = bad_inputs.BROKEN | bad_inputs.ODD
    folder = bad_inputs.raw_folder(tmp_path / "raw", TRAIN, {name: every[name] for name in sorted(bad)}, held_out=VAL)
    copy(folder)
    bad_inputs.prepare_unchecked(tmp_path, folder)
    found = findings(doctor.prepared(prepared.folder(tmp_path, Small)))
    assert {kind: finding.names for kind, finding in found.items()} == {
        "damaged_picture": ["truncated_end.jpg: image file is truncated (100 bytes not processed)"],
        "broken_caption": ["caption_of_spaces.jpg: an empty caption (number 1 of 1)"],
        "same_picture": ["held_out_1.jpg (val), good_0.jpg (train)"],
        "grey_picture": ["grey.jpg"],
        "split_size": ["train: 7 of 4"],
    }


def test_what_the_preparation_left_out_and_damaged_records_are_named(tmp_path):
    folder = bad_inputs.raw_folder(tmp_path / "raw", 150, {"empty.jpg": b""}, held_out=VAL)
    prepare_data.prepare("flickr8k", str(tmp_path), raw_dir=str(folder))
    records = prepared.folder(tmp_path, Small)
    shard = next(records.glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 8
    shard.write_bytes(content)
    found = findings(doctor.prepared(records))
    assert list(found) == ["damaged_record", "left_out", "split_size"]
    assert found["left_out"].count == 1
    assert found["left_out"].names[0].startswith(f"{folder}/images/empty.jpg: no picture in a format")
    assert found["damaged_record"].count == 1
    assert "of train: a damaged record: Corrupted" in found["damaged_record"].names[0]


@pytest.mark.parametrize("damage", [Path.unlink, lambda shard: shard.write_bytes(shard.read_bytes()[: 1 << 16])])
def test_a_shard_that_is_missing_or_cut_is_told_and_does_not_stop_the_rest(whole, tmp_path, damage):
    prepare_data.prepare("flickr8k", str(tmp_path), raw_dir=str(whole))
    records = prepared.folder(tmp_path, Small)
    damage(next(records.glob("*val*")))
    found = findings(doctor.prepared(records))
    assert list(found) == ["damaged_record"]
    assert [name.split(":")[0] for name in found["damaged_record"].names] == ["record 0 of val", "record 1 of val"]


def test_the_questions_of_one_photo_in_test_and_test_dev_are_no_fault(tmp_path, monkeypatch):
    write(tmp_path, "train2014")
    for subset in ("test2015", "test-dev2015"):
        write(tmp_path, subset, asked=[(9, 5, "Why?")], said=None)
    (tmp_path / "test-dev2015").rename(tmp_path / "elsewhere")
    (tmp_path / "test2015" / "COCO_test2015_000000000005.jpg").write_bytes(JPEG)
    assert findings(doctor.raw(vqav2.Builder.survey, tmp_path), vqav2.Builder) == {}
    write(tmp_path, "val2014", asked=[(10, 7, "Why?")], said={10: ("other", ["no"] * 10)})
    found = findings(doctor.raw(vqav2.Builder.survey, tmp_path), vqav2.Builder)
    assert {kind: finding.count for kind, finding in found.items()} == {"id_collision": 1, "same_picture": 1}
    how = dict(raw_dir=str(tmp_path), num_answers=9, min_answer_count=1)
    with pytest.raises(ConfigError, match=r"image id 7 is used twice, by COCO_train2014_0+7\.jpg \(train\) and"):
        prepare_data.prepare("vqav2", str(tmp_path), **how)
    monkeypatch.setattr(vqav2.Builder, "IDS_OF_SPLIT", True)  # as older code prepared it
    prepare_data.prepare("vqav2", str(tmp_path), **how)
    again = findings(doctor.prepared(prepared.folder(tmp_path, vqav2.Builder)), vqav2.Builder)
    names = ["COCO_train2014_000000000007.jpg (train)", "COCO_val2014_000000000007.jpg (val)"]
    assert again["id_collision"].names == [f"7: {', '.join(names)}"]
    assert again["same_picture"].names == [", ".join(names)]


def test_every_fault_of_the_question_files_is_told(tmp_path):
    write(tmp_path, "train2014", asked=[(1, 7, "Is it red?"), (2, 8, " ")], said={1: ("yes/no", ["yes"] * 10)})
    write(tmp_path, "val2014", asked=[(3, 9, "Why?")], said=None)
    (tmp_path / "train2014" / "COCO_train2014_000000000007.jpg").unlink()
    found = findings(doctor.raw(vqav2.Builder.survey, tmp_path), vqav2.Builder)
    assert "question 2 of v2_OpenEnded_mscoco_train2014_questions.json has no annot" in found["annotations"].names[0]
    assert "has no v2_mscoco_val2014_annotations.json beside it" in found["annotations"].names[1]
    assert files(found["missing_picture"]) == {"COCO_train2014_000000000007.jpg"}
    assert files(found["broken_caption"]) == {"COCO_train2014_000000000008.jpg"}


def test_the_shapes_are_whole(small_shapes):
    builder = prepared.builder_class("shapes", "")
    folder = prepared.folder(small_shapes, builder)
    tokenizer = text.Tokenizer(folder / prepared.VOCABULARY, length=16)
    found = doctor.examine(doctor.prepared(folder), builder, tokenizer, workers=1)
    assert (found.findings, found.exit_code) == ([], 0)
    assert found.captions > 100


def test_the_exit_code_is_of_the_worst():
    def code(*kinds):
        return doctor.Report([doctor.Finding(kind, 1, 0, ["x"]) for kind in kinds], {}, 0).exit_code

    assert [code(), code("grey_picture"), code("same_picture"), code("same_picture", "cut_caption")] == [0, 1, 2, 2]
