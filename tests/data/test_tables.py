"""Tables of pictures and captions: Parquet and saved Arrow data sets, with paths or with the pictures inside."""

import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.datasets import cc3m, folder, photo_builder, tables
from bridge_jax.data.datasets.folder import Options
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.records import open_splits
from tests.data import test_odd_tars
from tests.data.test_folder import ALL, photo, photos
from tools import prepare_data


def held(numbers, paths=True):
    """Return pictures as Hugging Face's `datasets` stores them."""
    return [{"bytes": photo(n), "path": f"deep/{n}.png" if paths else None} for n in numbers]


def write(path, columns, rows=2):
    """Write a table of `columns` with so many rows in a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=rows)


def surveyed(raw, options=ALL):
    found = folder.Builder.survey(raw, photo_builder.at_once, options)
    return {split: [(p.path.name, *p.captions) for p in members if not p.fault] for split, members in found.items()}


def test_pictures_inside_are_read_in_order_with_their_names(tmp_path):
    texts = [[f"photo {n}", f"number {n}"] for n in range(5)]
    write(tmp_path / "a.parquet", {"Image": held(range(5)), "text": texts, "box": [{"x": 1}] * 5})
    found = folder.Builder.survey(tmp_path, photo_builder.at_once, ALL)["train"]
    assert [(p.path.name, *p.captions) for p in found] == [(f"a.parquet/{n}.png", *texts[n]) for n in range(5)]
    assert [p.path.read_bytes() for p in found] == [photo(n) for n in range(5)]


@pytest.mark.parametrize("column", [pa.array([photo(0)], pa.binary()), pa.array([photo(0)], pa.large_binary())])
def test_a_column_of_bytes_has_no_names(tmp_path, column):
    write(tmp_path / "a.parquet", {"image": column, "caption": ["a dog"]})
    (only,) = folder.Builder.survey(tmp_path, photo_builder.at_once, ALL)["train"]
    assert (only.path.name, only.path.read_bytes()) == ("a.parquet/row 1", photo(0))


def test_a_column_of_paths_leads_to_files_beside_the_table_or_in_the_folder(tmp_path):
    photos(tmp_path / "images", [0, 1])
    columns = {"File Name": ["0.png", "1.png"], "words": ["a dog", "a cat"]}
    write(tmp_path / "lists" / "a.parquet", columns)
    assert surveyed(tmp_path, ALL._replace(columns=Columns(caption="WORDS"))) == {
        "train": [("0.png", "a dog"), ("1.png", "a cat")]
    }


def test_files_named_by_their_split_hold_it(tmp_path):
    for name, numbers in (("train-00000-of-00002", [0]), ("train-00001-of-00002", [1]), ("validation-00000", [2])):
        write(tmp_path / "data" / f"{name}.parquet", {"image": held(numbers), "caption": [f"photo {numbers[0]}"]})
    found = surveyed(tmp_path, Options())
    assert {split: [caption for _, caption in rows] for split, rows in found.items()} == {
        "train": ["photo 0", "photo 1"], "val": ["photo 2"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"expected pictures to train on, found the split 'val'; leave it out"):
        cc3m.Builder.survey(tmp_path, photo_builder.at_once)


def test_lists_named_by_their_split_hold_it(tmp_path):
    photos(tmp_path / "images", [0, 1])
    for number, name in enumerate(("train", "test")):
        (tmp_path / f"{name}.csv").write_text(f"image,caption\n{number}.png,photo {number}\n")
    assert surveyed(tmp_path, Options()) == {"train": [("0.png", "photo 0")], "test": [("1.png", "photo 1")]}
    (tmp_path / "more.csv").write_text("image,caption\n0.png,again\n")
    with pytest.raises(ConfigError, match=r"found more\.csv, test\.csv, train\.csv; several lists are read where each"):
        surveyed(tmp_path, Options())


def test_a_list_of_images_in_each_folder_as_imagefolder_has_them(tmp_path):
    for number, split in enumerate(("train", "test")):
        photos(tmp_path / split, [number])
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": f"{number}.png", "text": split}))
    assert surveyed(tmp_path, Options()) == {"train": [("0.png", "train")], "test": [("1.png", "test")]}


@pytest.mark.parametrize("new", [ipc.new_stream, ipc.new_file])
def test_a_saved_data_set_is_read_without_what_was_cached_beside_it(tmp_path, new):
    for split, numbers in (("train", [0, 1]), ("test", [2])):
        table = pa.table({"image": held(numbers), "caption": [f"photo {n}" for n in numbers]})
        (tmp_path / split).mkdir()
        for name in ("data-00000-of-00001.arrow", "cache-1234.arrow"):
            with new(str(tmp_path / split / name), table.schema) as writer:
                writer.write_table(table, max_chunksize=1)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / split / "state.json").write_text(json.dumps(state))
    name = "data-00000-of-00001.arrow"
    assert surveyed(tmp_path, Options()) == {
        "train": [(f"{name}/0.png", "photo 0"), (f"{name}/1.png", "photo 1")], "test": [(f"{name}/2.png", "photo 2")],
    }  # fmt: skip
    (only,) = folder.Builder.survey(tmp_path, photo_builder.at_once, Options())["test"]
    assert only.path.read_bytes() == photo(2)
    (tmp_path / "test" / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"test/state\.json: expected the files of a saved data set"):
        surveyed(tmp_path)


def test_what_cannot_be_used_is_skipped_or_refused_by_name(tmp_path):
    rows = held(range(300))
    rows[7]["bytes"] = None
    rows[9] = None
    write(tmp_path / "raw" / "a.parquet", {"image": rows, "caption": [None, *(f"photo {n}" for n in range(1, 300))]})
    said = prepare_data.prepare("folder", str(tmp_path / "out"), raw_dir=str(tmp_path / "raw"), workers=2, options=ALL)
    assert said.endswith(": train 297")
    none = "the table has no picture in this row, at most a path; save it with the pictures inside"
    folder_ = prepared.folder(tmp_path / "out", folder.Builder)
    assert [line.split("raw/", 1)[1] for line in (folder_ / prepared.SKIPPED).read_text().splitlines()] == [
        f"a.parquet/7.png: {none}",
        f"a.parquet/row 10: {none}",
        f"a.parquet: line 1: expected a caption of {tmp_path}/raw/a.parquet/0.png, got None among image, caption",
    ]
    assert open_splits(folder_)["train"][0]["filename"] == "a.parquet/1.png"


def test_a_table_that_is_not_whole_or_has_other_columns_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    write(file, {"picture": held([0]), "caption": ["a dog"]})
    with pytest.raises(ConfigError, match=r"a\.parquet: expected a column for the picture .* got 'picture, caption'"):
        surveyed(tmp_path)
    whole = file.read_bytes()
    for number, (name, content) in enumerate(
        [("a.parquet", whole[:-9]), ("a.parquet", b""), ("b.arrow", whole), ("b.arrow", b"")]
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{name}: not a whole table .*; fetch it again"):
            surveyed(tmp_path / str(number))


def test_a_picture_of_which_only_the_path_is_stored_cannot_be_read(tmp_path):
    write(tmp_path / "a.parquet", {"image": [{"path": "/a/0.png", "height": 8}], "caption": ["a dog"]})
    (only,) = folder.Builder.survey(tmp_path, photo_builder.at_once, ALL)["train"]
    with pytest.raises(OSError, match="the table has no picture in this row, at most a path"):
        only.path.read_bytes()


def test_a_damaged_row_group_is_a_picture_that_cannot_be_read(tmp_path):
    file = tmp_path / "a.parquet"
    write(file, {"image": held(range(4)), "caption": list("abcd")})
    found = folder.Builder.survey(tmp_path, photo_builder.at_once, ALL)["train"]
    content = bytearray(file.read_bytes())
    at = parquet.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[at : at + 40] = bytes(40)
    file.write_bytes(bytes(content))
    tables._pictures.cache_clear()
    tables._open.cache_clear()
    assert found[0].path.read_bytes() == photo(0)
    with pytest.raises(OSError, match=r"^the table cannot be read .*header failed"):
        found[2].path.read_bytes()


def test_a_table_beside_a_tar_describes_it(tmp_path):
    test_odd_tars.write(tmp_path / "00000.tar", test_odd_tars.samples(2))
    write(tmp_path / "00000.parquet", {"url": ["u"], "status": ["success"]})
    expected = [("00000.tar/0000.jpg", "say 0"), ("00000.tar/0001.jpg", "say 1")]
    assert surveyed(tmp_path) == {"train": expected}
