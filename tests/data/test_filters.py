"""Filters take what their flags say, count it, and give the same bytes whoever works and when."""

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import languages, near_duplicates, prepared, tar_index, tar_shards
from bridge_jax.data.datasets.folder import Options
from bridge_jax.data.filters import Filters
from bridge_jax.data.languages import Others
from bridge_jax.data.near_duplicates import NearDuplicates
from bridge_jax.data.records import open_splits
from tests.data.test_held_out import jpeg, picture
from tests.data.test_odd_tars import write
from tests.data.test_tar_preparation import contents
from tools import prepare_data

ALL = Options(val_share=0, test_share=0)
EVERY = Filters(20, 3.0, 2, 5, "de,en", 2, True)


def photo(seed, width=40, height=30, quality=90):
    """Coarse noise, which survives compression as photos do."""
    return jpeg(picture(12, 9, seed=seed).resize((width, height), Image.Resampling.BICUBIC), quality)


# Name -> picture and captions; every filter of EVERY takes something, counted by hand.
PHOTOS = {
    "a": (photo(0), ["a dog runs"]),
    "b": (photo(1, 19, 40), ["a small one"]),  # small
    "c": (photo(2, 91, 30), ["a wide one"]),  # narrow
    "d": (photo(3, 90, 30), ["just wide enough"]),
    "e": (photo(4), ["dog", "a dog sits"]),  # a caption of few words
    "f": (photo(5), ["dog"]),  # its only caption is too short
    "g": (photo(6), ["one two three four five six", "stock photo"]),  # too long; the other one is shared by three
    "h": (photo(7), ["Stock  photo"]),
    "i": (photo(8), ["stock photo", "stock photo", "a cat sits"]),
    "j": (photo(0, 60, 45, 70), ["the first one again"]),  # near duplicate of a
    "k": (photo(1, 60, 45), ["its small copy was taken"]),
    "l": (photo(9), ["красивый закат над морем", "ein Hund läuft"]),  # a caption in another language
}
KEPT = {
    "a": ["a dog runs"],
    "d": ["just wide enough"],
    "e": ["a dog sits"],
    "i": ["a cat sits"],
    "k": ["its small copy was taken"],
    "l": ["ein Hund läuft"],
}
TOOK = {
    "small": 1,
    "narrow": 1,
    "few_words": 2,
    "many_words": 1,
    "other_language": 1,
    "repeated": 4,
    "no_caption_left": 3,
    "near_duplicate": 1,
}


def tar(raw, name, photos):
    files = []
    for key, (encoded, captions) in photos.items():
        files += [(f"{key}.jpg", encoded), (f"{key}.json", json.dumps({"caption": captions}).encode())]
    write(raw / name, files)
    return raw


def listed(raw):
    raw.mkdir()
    lines = []
    for key, (encoded, captions) in PHOTOS.items():
        (raw / f"{key}.jpg").write_bytes(encoded)
        lines.append(json.dumps({"image": f"{key}.jpg", "caption": captions}))
    (raw / "captions.jsonl").write_text("\n".join(lines))
    return raw


def prepare(raw, out, filters=EVERY, dataset="folder", **more):
    more = {"options": ALL} | more if dataset == "folder" else more
    line = prepare_data.prepare(dataset, str(out), raw_dir=str(raw), filters=filters, **more)
    return line, prepared.folder(out, prepared.builder_class(dataset, ""))


def kept(out, split="train"):
    return {record["filename"].rpartition("/")[2][:-4]: record["captions"] for record in open_splits(out)[split]}


@pytest.mark.parametrize("form", ["tar", "list"])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_filter_takes_what_it_says_and_counts_it(tmp_path, form, workers):
    raw = tar(tmp_path / "raw", "0.tar", PHOTOS) if form == "tar" else listed(tmp_path / "raw")
    line, out = prepare(raw, tmp_path / "out", workers=workers)
    assert kept(out) == KEPT
    asked = {name: value for name, value in EVERY._asdict().items() if value}
    assert tfds.builder_from_directory(out).info.metadata["filters"] == asked | {"took": TOOK}
    said = (
        "1 picture with a side under 20 px, 1 picture of an aspect ratio over 3, 2 captions under 2 words, "
        "1 caption over 5 words, 1 caption not in de,en, 4 captions that more than 2 photos share, "
        "3 pictures without another caption, 1 near-duplicate picture"
    )
    assert line == f"{out}: train 6; filters took: {said}"
    assert "is prepared already (train 6; filters took: 1 picture " in prepare(raw, tmp_path / "out")[0]


def test_the_bytes_are_the_same_for_all_numbers_of_workers_and_after_a_stop(tmp_path, monkeypatch):
    photos = list(PHOTOS.items())
    for number in range(3):
        tar(tmp_path / "raw", f"{number}.tar", dict(photos[number::3]))
    for workers in (1, 2):
        prepare(tmp_path / "raw", tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")

    real, written = tar_shards.write, []

    def stop(task):
        if written:
            raise KeyboardInterrupt
        written.append(task)
        return real(task)

    monkeypatch.setattr(tar_shards, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "raw", tmp_path / "3", workers=1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"was begun with max_words 5: give the same flags to go on"):
        prepare(tmp_path / "raw", tmp_path / "3", EVERY._replace(max_words=6))
    prepare(tmp_path / "raw", tmp_path / "3", workers=2)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_tar_that_is_added_is_compared_with_those_that_are_gone(tmp_path):
    raw = tar(tmp_path / "raw", "0.tar", {"a": (photo(0), ["a dog runs"]), "b": (photo(1), ["a cat runs"])})
    prepare(raw, tmp_path / "out")
    (raw / "0.tar").unlink()
    tar(raw, "1.tar", {"c": (photo(1, 60, 45), ["a cat again"]), "d": (photo(2), ["a cow runs"])})
    line, out = prepare(raw, tmp_path / "out")
    assert sorted(kept(out)) == ["a", "b", "d"]
    assert line.endswith(", 1 near-duplicate picture")
    tar(raw, "2.tar", {"e": (photo(3), ["a hen runs"])})
    with pytest.raises(ConfigError, match=r"was begun with .*drop_near_duplicates True: give the same flags"):
        prepare(raw, tmp_path / "out", Filters())


def test_only_train_is_filtered(tmp_path):
    tar(tmp_path / "raw", "train-0.tar", {"a": (photo(0), ["a dog runs"]), "b": (photo(1, 9, 9), ["a cat runs"])})
    tar(tmp_path / "raw", "val-0.tar", {"c": (photo(0, 9, 9), ["dog"])})
    _, out = prepare(tmp_path / "raw", tmp_path / "out")
    assert (kept(out), kept(out, "val")) == ({"a": ["a dog runs"]}, {"c": ["dog"]})


def test_what_cannot_be_read_is_listed_and_not_filtered(tmp_path):
    photos = {str(number): (photo(number, 16, 12), ["a dog"]) for number in range(100)}
    raw = tar(tmp_path / "raw", "0.tar", photos | {"torn": (b"no picture", ["a cat"])})
    line, out = prepare(raw, tmp_path / "out", Filters(min_side_px=10, drop_near_duplicates=True), "cc3m")
    assert (out / prepared.SKIPPED).read_text().startswith(f"{raw}/0.tar/torn.jpg: no picture in a format")
    assert ": train 100; filters took: 0 pictures" in line


@pytest.mark.parametrize("form", ["tar", "list"])
def test_filters_that_leave_nothing_or_do_not_fit_are_refused(tmp_path, form):
    raw = tar(tmp_path / "raw", "0.tar", PHOTOS) if form == "tar" else listed(tmp_path / "raw")
    with pytest.raises(ConfigError, match="the filters take all 12 pictures of train; expected some to be left"):
        prepare(raw, tmp_path / "out", Filters(min_side_px=500))
    prepare(raw, tmp_path / "plain", Filters())
    with pytest.raises(ConfigError, match=r"--min_words: .* was prepared with no filter; delete the folder"):
        prepare(raw, tmp_path / "plain", Filters(min_words=3))
    with pytest.raises(ConfigError, match="--min_words: the pictures of 'coco' were chosen by its authors"):
        prepare(raw, tmp_path / "out", Filters(min_words=3), "coco")
    with pytest.raises(ConfigError, match=r"--max_aspect is 0\.5; expected at least 1"):
        Filters(max_aspect=0.5).check()
    with pytest.raises(ConfigError, match="--max_words is 2; expected at least --min_words, 3"):
        Filters(min_words=3, max_words=2).check()


def test_an_index_that_was_made_for_other_filters_is_made_anew(tmp_path):
    raw = tar(tmp_path / "raw", "0.tar", PHOTOS)
    prepare(raw, tmp_path / "whole")
    tar_index.write(tar_index.Tar(str(raw), "0.tar", str(tmp_path / "out/folder/1.0.0/index/0.tar.parquet")))
    assert kept(prepare(raw, tmp_path / "out")[1]) == KEPT
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_language_is_one_that_is_told_and_no_name_is_foreign():
    with pytest.raises(ConfigError, match="--languages: 'eng' is no language that py3langid knows; expected ISO 639"):
        Filters(languages="de,eng").check()
    others = Others("en")
    assert not any(map(others.holds, ("Porsche 911 Carrera", "", "a dog", "\ud800 stock photo")))
    assert others.holds("красивый закат над морем")


def test_languages_without_their_extra_are_one_line_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    languages._model.cache_clear()
    with pytest.raises(ConfigError, match=r"--languages needs an extra: pip install 'bridge_jax\[language\]'"):
        Filters(languages="en").check()


def test_near_duplicates_are_those_of_pairs_compared_one_by_one(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_UNSORTED", 20)
    monkeypatch.setattr(near_duplicates, "_SMALL", 70)
    monkeypatch.setattr(near_duplicates, "_ROWS", 16)
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 400, dtype=np.uint64)
    for row in range(100, 400):  # copies of earlier ones, and copies of copies, with 0 to 12 other bits
        bits = draw.choice(64, draw.integers(0, 13), replace=False)
        hashes[row] = hashes[draw.integers(row)] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    fresh, known = [], NearDuplicates()
    for one in hashes.tolist():
        if all((one ^ other).bit_count() > 8 for other in fresh):
            fresh.append(one)
    found = [known.add(part) for part in np.split(hashes, [3, 150, 150, 311])]
    assert hashes[np.concatenate(found)].tolist() == fresh
    assert 150 < len(fresh) < 350
