"""Data sets of long captions from raw folders made by hand, and who may be scored on them."""

import json

import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, long_captions, prepared
from bridge_jax.data.datasets import docci
from bridge_jax.data.records import open_splits
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.step.params import init_params
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process
from tests.data.bad_inputs import encode, picture
from tools import prepare_data

LENGTH = 16  # of the tiny text tower, [CLS] and [SEP] included
LONG = " ".join(["a large red circle left of a small blue square"] * 3)  # 30 words, each a token of the shapes


def jpeg(file, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(picture(seed=seed), "JPEG"))


def write_docci(raw, splits=("train", "test", "qual_dev", "train", "qual_test"), said="a {} circle"):
    lines = []
    for number, split in enumerate(splits):
        jpeg(raw / "images" / f"{split}_{number:05d}.jpg", number)
        entry = dict(example_id=f"{split}_{number:05d}", split=split, image_file=f"{split}_{number:05d}.jpg")
        lines.append(json.dumps(entry | {"description": f" {said.format(number)}\n"}))
    (raw / docci.DESCRIPTIONS).write_text("\n".join(lines) + "\n")
    return raw


def write_urban1k(raw, captions=("a red circle\nnot read", "a blue square ")):
    (raw / "caption").mkdir(parents=True)
    for number, caption in enumerate(captions):
        (raw / "caption" / f"{number + 1}.txt").write_text(caption)
        jpeg(raw / "image" / f"{number + 1}.jpg", number)
    return raw


def write_dci(raw, splits=(("train", 3), ("valid", 1), ("test", 2))):
    (raw / "annotations").mkdir(parents=True)
    named, count = {}, 0
    for split, size in splits:
        named[split] = [f"{split}{number}.json" for number in range(size)]
        for name in named[split]:
            entry = dict(image=f"sa_{90 - count}.jpg", short_caption=f"circle {count}", extra_caption="It is red.\n")
            (raw / "annotations" / name).write_text(json.dumps(entry | dict(mask_data={}, mask_keys=[])))
            jpeg(raw / "photos" / f"sa_{90 - count}.jpg", count)
            count += 1
    (raw / "splits.json").write_text(json.dumps(named))
    return raw


WRITERS = {"docci": write_docci, "urban1k": write_urban1k, "dci": write_dci}
PREPARED = {
    "docci": "train 2, test 1, qual_dev 1, qual_test 1",
    "urban1k": "test 2",
    "dci": "train 3, valid 1, test 2, full 6",
}


def prepare(name, raw):
    return prepare_data.prepare(name, str(raw / "out"), raw_dir=str(raw), workers=2)


def told(name, raw):
    """Prepare the raw folder, and return split -> id, file and captions of every photo, in order."""
    assert prepare(name, WRITERS[name](raw)).endswith(f": {PREPARED[name]}")
    (folder,) = (raw / "out").glob(f"{name}/*")
    return {
        split: [(r["image_id"], r["filename"], *r["captions"]) for r in records]
        for split, records in open_splits(folder).items()
    }


def test_docci_keeps_its_splits_and_the_order_of_its_lines(tmp_path):
    assert told("docci", tmp_path) == {
        "train": [(1, "train_00000.jpg", "a 0 circle"), (4, "train_00003.jpg", "a 3 circle")],
        "test": [(2, "test_00001.jpg", "a 1 circle")],
        "qual_dev": [(3, "qual_dev_00002.jpg", "a 2 circle")],
        "qual_test": [(5, "qual_test_00004.jpg", "a 4 circle")],
    }


def test_the_caption_of_urban1k_is_the_first_line_of_its_text(tmp_path):
    assert told("urban1k", tmp_path) == {"test": [(0, "1.jpg", "a red circle"), (1, "2.jpg", "a blue square")]}


def test_the_caption_of_dci_is_the_short_one_and_what_else_is_said(tmp_path):
    expected = [(n, f"sa_{90 - n}.jpg", f"circle {n}\nIt is red.") for n in range(6)]
    splits = {"train": expected[:3], "valid": expected[3:4], "test": expected[4:], "full": expected}
    assert told("dci", tmp_path) == splits


@pytest.mark.parametrize("name", WRITERS)
def test_the_doctor_finds_no_id_and_no_picture_twice(name, tmp_path):
    builder = prepared.builder_class(name, "--dataset")
    report = doctor.examine(doctor.raw(builder.survey, WRITERS[name](tmp_path)), builder, None, workers=2)
    assert {finding.kind for finding in report.findings} == {"split_size"}


def changed_line(raw, **fields):
    path = raw / docci.DESCRIPTIONS
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | fields), *rest]))


def changed_annotation(raw, **fields):
    path = raw / "annotations" / "train1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("docci", lambda raw: (raw / docci.DESCRIPTIONS).unlink(), r"no docci_descriptions\.jsonlines in .*; fetch it"),
        ("docci", lambda raw: (raw / docci.DESCRIPTIONS).write_text('{"split": "te\n'), "line 1: expected JSON"),
        ("docci", lambda raw: (raw / docci.DESCRIPTIONS).write_text(""), "lists no photo"),
        ("docci", lambda raw: changed_line(raw, description=7), r"line 1: expected a caption of train_00000\.jpg"),
        ("docci", lambda raw: changed_line(raw, split="val"), "line 1: the split 'val'; expected one of train, test, "),
        ("docci", lambda raw: changed_line(raw, image_file="../x.jpg"), r"line 1: '\.\./x\.jpg' leaves the folder"),
        ("docci", lambda raw: (raw / "images").rename(raw / "photos"), "no image folder .*images, which docci_descri"),
        ("urban1k", lambda raw: (raw / "caption").rename(raw / "texts"), r"no caption/\*\.txt in .*; fetch Urban1k\.z"),
        ("urban1k", lambda raw: (raw / "image").rename(raw / "photos"), "no image folder .*image, which caption names"),
        (
            "urban1k",
            lambda raw: (raw / "image" / "2.jpg").unlink(),
            r"1% of 2 images are broken .*2\.jpg: No such file",
        ),
        ("dci", lambda raw: (raw / "splits.json").unlink(), r"no splits\.json in .*; fetch dci\.tar\.gz"),
        (
            "dci",
            lambda raw: (raw / "splits.json").write_text('{"train": []}'),
            r"the lists train, valid and test \(Key",
        ),
        (
            "dci",
            lambda raw: changed_annotation(raw, extra_caption=None),
            r"train1\.json, in the split 'train': expected",
        ),
        ("dci", lambda raw: changed_annotation(raw, image="/etc/x.jpg"), "'/etc/x.jpg' leaves the folder"),
        (
            "dci",
            lambda raw: (raw / "annotations" / "test1.json").unlink(),
            r"test1\.json, in the split 'test': expected",
        ),
        ("dci", lambda raw: (raw / "annotations" / "test1.json").write_text("{"), r"test1\.json, in the split 'test'"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_clear_line(name, change, says, tmp_path):
    change(WRITERS[name](tmp_path))
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_photo_that_is_missing_is_left_out_and_listed(tmp_path):
    write_docci(tmp_path, ["test"] * 100)
    (tmp_path / "images" / "test_00007.jpg").unlink()
    assert prepare("docci", tmp_path).endswith(": test 99")
    (listed,) = (tmp_path / "out").rglob(prepared.SKIPPED)
    assert listed.read_text().endswith("test_00007.jpg: No such file or directory\n")


@pytest.fixture(scope="module")
def vocabulary(small_shapes):
    (found,) = small_shapes.rglob(prepared.VOCABULARY)
    return found


@pytest.fixture(scope="module")
def settings(tiny, vocabulary, tmp_path_factory):
    """Make a config on Urban1k, of which `long` captions have 32 tokens and `short` ones five."""

    def make(*, short, long, length=LENGTH):
        raw = write_urban1k(tmp_path_factory.mktemp("raw"), [LONG] * long + ["a red circle"] * short)
        prepare("urban1k", raw)
        cfg = tiny()
        cfg.text.update(length=length, max_positions=max(length, 16))
        cfg.data.update(dataset="urban1k", data_dir=str(raw / "out"), eval_split="test", vocabulary=str(vocabulary))
        cfg.evals.retrieval.splits = ("test",)
        return config.parse(cfg)

    return make


def test_a_tower_that_cuts_many_captions_is_refused_with_the_length_that_would_do(settings):
    says = (
        r"^split 'test' of 'urban1k': 75\.0% of its 4 captions have more tokens than config\.text\.length 16 \(the "
        r"longest has 32\): a score would be of their first words; take a checkpoint with config\.text\.length 32 or "
        r"more \(docs/data\.md, Long captions\)$"
    )
    with pytest.raises(ConfigError, match=says):
        Evaluator.check(settings(short=1, long=3))
    Evaluator.check(cfg := settings(short=1, long=3, length=32))
    assert len(long_captions.open_whole(cfg, "test")) == 4


def test_a_tenth_of_the_captions_may_be_cut_and_is_told(settings, caplog):
    Evaluator.check(settings(short=18, long=2))
    assert "10.0% of its 20 captions have more tokens than config.text.length 16" in caplog.text
    with pytest.raises(ConfigError, match=r": 15\.0% of its 20 captions .* config\.text\.length 32 or more"):
        Evaluator.check(settings(short=17, long=3))


def test_other_data_sets_are_cut_as_before(tiny):
    cfg = tiny()
    cfg.text.length = 4
    assert len(long_captions.open_whole(config.parse(cfg), "val")) == 16


@pytest.fixture(scope="module")
def evaluate(tiny, settings, vocabulary, tmp_path_factory):
    """Evaluate a checkpoint of the tiny towers on Urban1k with so many captions, as a user does."""
    cfg, workdir = config.parse(tiny()), tmp_path_factory.mktemp("run")
    saves = Checkpoints(workdir)
    saves.save(4, "stabilise", init_params(cfg), None, cfg)
    saves.close()

    def run(json_file, **captions):
        given = [f"--data_dir={settings(**captions).data.data_dir}", f"--vocabulary={vocabulary}"]
        given += ["--config=configs/long_captions.py:data=urban1k", "--split=test", f"--json={json_file}"]
        quick = dict(batch_size=16, bootstrap_samples=20)
        given += [f"--config.evals.retrieval.{key}={value}" for key, value in quick.items()]
        return process.run("tools.evaluate", f"--workdir={workdir}", *given)

    return run


def test_a_checkpoint_whose_text_tower_reads_the_captions_is_scored(evaluate, tmp_path):
    done = evaluate(tmp_path / "out.json", short=3, long=0)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["dataset"], record["split"]) == ("urban1k", "test")
    assert record["metrics"]["unimodal/text_to_image/r@5"] == 100.0  # of three photos


def test_a_checkpoint_whose_text_tower_does_not_is_refused_in_one_line(evaluate, tmp_path):
    done = evaluate(tmp_path / "out.json", short=0, long=3)
    assert (done.returncode, done.stdout, (tmp_path / "out.json").exists()) == (2, "", False)
    assert done.stderr.startswith("error: split 'test' of 'urban1k': 100.0% of its 3 captions have more tokens than ")
    assert done.stderr.count("\n") == 1


def test_only_the_data_sets_of_long_captions_say_so():
    classes = {name: prepared.builder_class(name, "") for name in prepared.names()}
    assert {name for name, builder in classes.items() if getattr(builder, "LONG", False)} == set(WRITERS)
