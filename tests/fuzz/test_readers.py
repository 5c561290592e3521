"""Whatever the bytes of a stranger's file: its reader returns, or raises an error of ours that names the file.

`FUZZ=long python -m pytest tests/fuzz` tries 3,000 cases of each reader in place of 20. What a long run found is a test
of its own beside the reader.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import ipc, parquet
from safetensors.numpy import save

from bridge_jax.config import ConfigError
from bridge_jax.data import encode, fetch_stats, image, text
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.datasets import (
    cc3m,
    coco,
    dci,
    docci,
    folder,
    imagefolder,
    msrvtt,
    nlvr,
    nocaps,
    photo_records,
    snli_ve,
    visual_genome,
    vqav2,
)
from bridge_jax.data.datasets.folder import Options
from bridge_jax.index import store
from bridge_jax.interop import hf_import
from bridge_jax.report import story
from bridge_jax.workdir import broken_log, log, manifest, provenance, tracking
from bridge_jax.workdir.outcome import Outcome, StorageError
from tests.data.test_folder import photo
from tests.fuzz.spoiled import like

OURS = (ConfigError, BrokenError, StorageError)
ALL = Options(val_share=0, test_share=0)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s"]


PICTURES = ("jpeg", "png", "webp", "gif", "tiff", "avif")  # whoever reads them names the file


class Reader(NamedTuple):
    """A valid file, its name, what reads it in its folder, and the files beside it."""

    valid: bytes
    name: str
    read: Callable[[Path], object]
    beside: Mapping[str, bytes] = {}


def pictures(kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8)).save(out, kind, **settings)
    return out.getvalue()


def packed(**files: bytes) -> bytes:
    """Return a tar of the pictures a.png and b.png and of files, `a_txt` for a.txt."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in ({"a_png": photo(0), "b_png": photo(1)} | files).items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def table(write: Callable[[pa.Table, io.BytesIO], None]) -> bytes:
    out = io.BytesIO()
    write(pa.table({"image": [{"bytes": photo(n), "path": f"{n}.png"} for n in range(2)], "caption": ["a", "b"]}), out)
    return out.getvalue()


def stream(rows: pa.Table, out: io.BytesIO) -> None:
    with ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows)


def surveyed(builder: type, *options: object) -> Callable[[Path], object]:
    """Return a reader of a raw folder as the doctor reads it, then its pictures."""

    def read(raw: Path) -> None:
        for name in ("images", "train2014", "val2014", "VG_100K", "frames", "val", "flickr30k-images"):
            (raw / name).mkdir(exist_ok=True)
        for photos in builder.survey(raw, lambda _: None, *options).values():
            for each in photos:
                photo_records.read(each)
                for caption in each.texts:
                    text.fault(caption)

    return read


def viewed(file: str) -> Callable[[Path], object]:
    """Return a reader of a picture as preparation, training and search look at it."""

    def read(where: Path) -> None:
        encoded = (where / file).read_bytes()
        fault = image.fault(encoded)
        image.taken(encoded)
        try:
            image.eval_view(encoded, 8)
            encode.thumbnail(encoded, 8)
            encode.smaller(encoded, encode.Stored(8))
        except BrokenError:
            assert fault, "a picture that passed the check cannot be shown"
            raise

    return read


def tokenized(name: str) -> Callable[[Path], object]:
    def read(where: Path) -> None:
        tokenizer = text.Tokenizer(where / name, 8)
        tokenizer.encode(["a dogs"])
        tokenizer.measure(["a dogs"])

    return read


def a_tokenizer() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "vocab.txt").write_text("\n".join(WORDS))
        return text.Tokenizer(Path(place) / "vocab.txt", 8).to_json().encode()


def as_json(*records: object) -> bytes:
    return "\n".join(map(json.dumps, records)).encode() + b"\n"


def taken_up(workdir: Path) -> None:
    with Outcome(workdir) as run:
        run.begin()


def opened(raw: Path) -> None:
    index = store.open_index(raw)
    assert index.embeddings.shape == (index.manifest.rows, index.manifest.shape[0])


def an_index() -> dict[str, bytes]:
    """Return the files of an index of two photos."""
    with tempfile.TemporaryDirectory() as place:
        made = store.Manifest(store.FORMAT, "c", "w", 1, "photos", (3, 2, 2), states=True)
        arrays = {store.EMBEDDINGS: np.ones((2, 3), np.float32), store.STATES: np.ones((2, 2, 2), np.float16)}
        made = store.append(Path(place), made, arrays, [{"sha256": str(n) * 64, "taken": ""} for n in range(2)])
        files = [store.File(f"{n}.jpg", str(n) * 64, 5, 1_700_000_000_000_000_000, n) for n in range(2)]
        store.write_files(Path(place), made, files)
        return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def folder_of(raw: Path) -> None:
    hf_import.load(raw)


ENTRY = {"step": 1, "time": 1.0, "train/loss": 2.0}
OUTCOME = {
    "cause": "finished", "exit_code": 0, "message": "", "command": "x", "next": "", "host": "h", "pid": 1,
    "began": "2026-01-01T00:00:00+00:00", "at": "2026-01-01T00:00:00+00:00", "stage": "align", "step": 3,
    "saved_step": 3, "doing": "nothing", "starts": 1, "goodput": 0.5, "secs": {"train": 1.0},
}  # fmt: skip
TRACKERS = {"mlflow": {"run": "0a1b", "logged": {"train/loss": 7}}}
START = {
    "at": "2026-01-01T00:00:00+00:00", "step": 0, "commit": "c", "uncommitted": False, "jax": "j", "platform": "cpu",
    "device": "cpu", "devices": 1, "processes": 1, "data": "d",
}  # fmt: skip
BROKEN = {"step": 1, "stage": "align", "file": "f", "fault": "x", "record": 0, "caption": 0, "share": 1.0}
ENTRY_OF_COCO = {"filename": "0.png", "filepath": "train2014", "imgid": 0, "cocoid": 5, "split": "train"}
KARPATHY = {"images": [ENTRY_OF_COCO | {"sentences": [{"raw": "a"}]}]}
PAIRS = [{"image": "0.png", "caption": ["a", "b"], "wrong_caption": "c"}, {"image": "1.png", "caption": "a"}]
ASKED = {"questions": [{"question_id": 1, "image_id": 2, "question": "a dog ?"}]}
SAID = {
    "annotations": [{"question_id": 1, "answer_type": "yes/no", "answers": [{"answer": "yes", "answer_id": 1}] * 10}]
}
VQA = {
    name: f"v2_{name}_train2014_{kind}.json"
    for name, kind in (("OpenEnded_mscoco", "questions"), ("mscoco", "annotations"))
}
GENOME = {
    "image_data.json": as_json([{"image_id": 1, "coco_id": None}]),
    "region_descriptions.json": as_json([{"id": 1, "regions": [{"phrase": "a dog", "region_id": 1}]}]),
}
STATEMENT = {"identifier": "1-0", "sentence": "a dog .", "label": "true", "directory": "0"}
ENTAILS = {"Flickr30K_ID": "1", "pairID": "1.jpg#0", "sentence2": "a dog", "gold_label": "neutral"}
NOCAPS = {
    "images": [{"id": 1, "file_name": "0.jpg", "domain": "in-domain"}],
    "annotations": [{"image_id": 1, "caption": "a dog"}],
}
DOCCI = {"example_id": "test_0", "split": "test", "image_file": "0.jpg", "description": "a dog"}
DCI = {
    "splits.json": as_json({"train": ["0.json"], "valid": [], "test": []}),
    "annotations/0.json": as_json({"image": "sa_0.jpg", "short_caption": "a dog", "extra_caption": "It runs."}),
}
WHOLE = {"videos": [{"video_id": "v", "split": "test"}], "sentences": [{"video_id": "v", "caption": "a dog"}]}
TENSORS = save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})
OWN = surveyed(folder.Builder, ALL)
CLASSES = {
    "0.tar": packed(a_cls=b"0", b_cls=b"1"),
    "classnames.txt": b"dog\ncat\n",
    "templates.txt": b"a {c}\nthe {}\n",
}
STATS = {"count": 3, "successes": 2, "failed_to_download": 1, "status_dict": {"success": 2, "timed out": 1}}

READERS = {
    "csv": Reader(b'image,caption,split\n0.png,"a dog, wet",train\n1.png,a cat,val\n', "a.csv", OWN),
    "semicolons": Reader(b"image;caption\n0.png;a dog\n1.png;a cat\n", "a.csv", surveyed(cc3m.Builder)),
    "tsv": Reader(b"image\tcaption\n0.png\ta dog\n", "a.tsv", OWN),
    "token": Reader(b"0.jpg#0\ta dog\n0.jpg#1\ta cat\n", "a.token", OWN),
    "jsonl": Reader(as_json(*PAIRS), "a.jsonl", OWN),
    "tar": Reader(packed(a_txt=b"a dog", b_json=b'{"caption": "a"}'), "0.tar", OWN),
    **{name: Reader(CLASSES[name], name, surveyed(imagefolder.Builder), CLASSES) for name in CLASSES},
    "stats": Reader(as_json(STATS), "0_stats.json", lambda raw: fetch_stats.read(raw / "0.tar")),
    "parquet": Reader(table(parquet.write_table), "a.parquet", OWN),
    "arrow": Reader(table(stream), "a.arrow", OWN),
    "karpathy": Reader(as_json(KARPATHY), "dataset_coco.json", surveyed(coco.Builder)),
    "questions": Reader(
        as_json(ASKED), VQA["OpenEnded_mscoco"], surveyed(vqav2.Builder), {VQA["mscoco"]: as_json(SAID)}
    ),
    "answers": Reader(
        as_json(SAID), VQA["mscoco"], surveyed(vqav2.Builder), {VQA["OpenEnded_mscoco"]: as_json(ASKED)}
    ),
    "genome": Reader(GENOME["image_data.json"], "image_data.json", surveyed(visual_genome.Builder), GENOME),
    "regions": Reader(
        GENOME["region_descriptions.json"], "region_descriptions.json", surveyed(visual_genome.Builder), GENOME
    ),
    "nlvr": Reader(as_json(STATEMENT, STATEMENT | {"identifier": "2-0"}), "train.jsonl", surveyed(nlvr.Builder)),
    "snli_ve": Reader(as_json(ENTAILS), "snli_ve_train.jsonl", surveyed(snli_ve.Builder)),
    "nocaps": Reader(as_json(NOCAPS), "nocaps_val_4500_captions.json", surveyed(nocaps.Builder)),
    "docci": Reader(as_json(DOCCI), docci.DESCRIPTIONS, surveyed(docci.Builder)),
    **{name: Reader(DCI[name], name, surveyed(dci.Builder), DCI) for name in DCI},
    "msrvtt": Reader(as_json(WHOLE), msrvtt.WHOLE, surveyed(msrvtt.Builder)),
    "videos": Reader(b"key,vid_key,video_id,sentence\nr0,m0,v,a dog\n", msrvtt.TEST_1K, surveyed(msrvtt.Builder)),
    **{kind: Reader(pictures(kind.upper()), f"0.{kind}", viewed(f"0.{kind}")) for kind in PICTURES},
    "vocab": Reader("\n".join(WORDS).encode(), "vocab.txt", tokenized("vocab.txt")),
    "tokenizer": Reader(a_tokenizer(), "tokenizer.json", tokenized("tokenizer.json")),
    "safetensors": Reader(TENSORS, "model.safetensors", folder_of, {"config.json": b"{}"}),
    "shards": Reader(
        as_json({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}),
        "model.safetensors.index.json", folder_of, {"config.json": b"{}", "one.safetensors": TENSORS},
    ),
    "tower": Reader(as_json({"model_type": "vit"}), "config.json", folder_of, {"model.safetensors": TENSORS}),
    "outcome": Reader(as_json(OUTCOME), "outcome.json", taken_up),
    "metrics": Reader(as_json(ENTRY, ENTRY | {"step": 2}), "metrics.jsonl", lambda at: log.read(at / "metrics.jsonl")),
    "starts": Reader(as_json(START, START), "starts.jsonl", provenance.read),
    "trackers": Reader(as_json(TRACKERS), "trackers.json", lambda at: tracking.read(at / "trackers.json")),
    "broken": Reader(as_json(BROKEN), "broken_data.jsonl", lambda at: broken_log.BrokenLog(at, 5, (), 1.0)),
    "report": Reader(as_json(OUTCOME), "outcome.json", lambda at: story._outcome(at / "outcome.json")),
    "manifest": Reader(as_json({"files": {}, "scores": {}, "sha256": ""}), "manifest.json", manifest.fault),
    **{name: Reader(content, name, opened, an_index()) for name, content in an_index().items()},
}  # fmt: skip


def write(place: Path, reader: Reader, content: bytes) -> None:
    for name, valid in reader.beside.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(valid)
    (place / reader.name).write_bytes(content)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_a_reader_returns_or_names_the_file(name, data):
    reader = READERS[name]
    content = data.draw(like(reader.valid))
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), reader, content)
        try:
            reader.read(Path(place))
        except OURS as error:
            said = str(error)
        else:
            return
    assert said
    assert "\n" not in said
    if name not in PICTURES:
        assert place in said


@pytest.mark.parametrize("name", READERS)
def test_the_valid_file_is_read(name, tmp_path):
    reader = READERS[name]
    write(tmp_path, reader, reader.valid)
    reader.read(tmp_path)
