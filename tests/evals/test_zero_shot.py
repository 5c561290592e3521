"""Zero-shot classification: the folders and tars that are read, and a score equal to that of plain NumPy."""

import contextlib
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import pipeline, prepared, text
from bridge_jax.data.datasets import imagefolder
from bridge_jax.data.records import open_splits
from bridge_jax.evals import zero_shot
from bridge_jax.evals.scores import zero_shot as scores
from bridge_jax.models import heads
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from configs import common
from tests import process, runs
from tests.data.bad_inputs import encode, picture
from tools import prepare_data

COUNTS = {"blue_square": 4, "large circle": 2, "left": 1, "red": 3, "small": 1, "square": 2}
NAMES = ("blue square", "large circle", "left", "red", "small", "square")
WEIGHT = 0.5  # of the embeddings in reranking
TEMPLATES = ("a {c} .", "the {c} left of a {} circle", "{}")


def write(raw, split=""):
    """Write a folder for each class, with COUNTS pictures, and the templates."""
    for number, (name, count) in enumerate(COUNTS.items()):
        (folder := raw / split / name).mkdir(parents=True)
        for photo in range(count):
            (folder / f"{photo}.jpg").write_bytes(encode(picture(seed=10 * number + photo), "JPEG"))
    (raw / "templates.txt").write_text("".join(f"{template}\n" for template in TEMPLATES))
    return raw


def tar(path, samples):
    """Write the tar of (picture, text of .cls) as CLIP_benchmark does; None leaves a part out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, (kind, said) in enumerate(samples):
            parts = {"cls": said.encode() if said is not None else None}
            parts[kind] = encode(picture(seed=number), kind.upper()) if kind else None
            for suffix, content in parts.items():
                if content is not None:
                    entry = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def write_tars(raw, samples=(("webp", "0"), ("png", "2"), ("webp", "2\n"))):
    tar(raw / "test" / "0.tar", samples)
    (raw / "test" / "nshards.txt").write_text("1")
    (raw / "classnames.txt").write_text("red\nsmall circle\nblue\n")
    (raw / "zeroshot_classification_templates.txt").write_text("a {c} .\na large {c} .\n")
    return raw


def prepare(raw):
    line = prepare_data.prepare("imagefolder", str(raw.parent / "out"), raw_dir=str(raw))
    (folder,) = (raw.parent / "out").glob("imagefolder/*")
    return line, folder


def classes_of(folder, split="test"):
    return [int(record["questions"][0].name) for record in open_splits(folder)[split]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    line, folder = prepare(write(tmp_path_factory.mktemp("photos") / "raw"))
    assert line.endswith(": test 13")
    return folder


def test_a_photo_has_the_class_of_its_folder(folder):
    assert classes_of(folder) == np.repeat(range(6), list(COUNTS.values())).tolist()
    assert (folder / "classes.txt").read_text().splitlines() == list(NAMES)
    assert (folder / "templates.txt").read_text().splitlines() == [t.replace("{}", "{c}") for t in TEMPLATES]
    records = open_splits(folder)["test"]
    assert {record["questions"][0].answers for record in records} == {(name,) for name in NAMES}
    assert len({record["image_id"] for record in records}) == 13


def test_folders_of_splits_share_their_classes(tmp_path):
    raw = write(write(tmp_path / "raw", "train"), "test")
    (raw / "train" / "zebra").mkdir()
    (raw / "train" / "zebra" / "0.png").write_bytes(encode(picture(), "PNG"))
    line, folder = prepare(raw)
    assert line.endswith(": train 14, test 13")
    assert set(classes_of(folder)) == set(range(6))
    assert set(classes_of(folder, "train")) == set(range(7))


def test_a_class_may_be_named_train(tmp_path):
    write(tmp_path / "raw")
    (tmp_path / "raw" / "small").rename(tmp_path / "raw" / "train")
    assert prepare(tmp_path / "raw")[0].endswith(": test 13")


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_file_names_the_classes_in_order_or_by_folder(tmp_path, by_folder):
    write(tmp_path / "raw")
    names = ["sea", "sky", "sun", "son", "sin", "sow"]
    lines = [f"{folder}\t{name}" for folder, name in zip(COUNTS, names, strict=True)][::-1] if by_folder else names
    (tmp_path / "raw" / "classnames.txt").write_text("\n".join(lines))
    _, folder = prepare(tmp_path / "raw")
    assert (folder / "classes.txt").read_text().splitlines() == names


def test_without_templates_there_is_one_and_a_line_says_so(tmp_path, caplog):
    (write(tmp_path / "raw") / "templates.txt").unlink()
    _, folder = prepare(tmp_path / "raw")
    assert (folder / "templates.txt").read_text() == "a photo of a {c}.\n"
    assert "no templates.txt" in caplog.text


@pytest.mark.parametrize("place", ["test", "."])
def test_tars_of_clip_benchmark_are_read(tmp_path, place):
    raw = write_tars(tmp_path / "raw")
    if place == ".":
        (raw / "test" / "0.tar").rename(raw / "0.tar")
    line, folder = prepare(raw)
    assert (line.rpartition(": ")[2], classes_of(folder)) == ("test 3", [0, 2, 2])
    assert (folder / "classes.txt").read_text().splitlines() == ["red", "small circle", "blue"]
    assert (folder / "templates.txt").read_text().splitlines() == ["a {c} .", "a large {c} ."]


def edit(name, content):
    return lambda raw: (raw / name).write_text(content)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (write, edit("templates.txt", ""), "templates.txt has no template; write one"),
        (write, edit("templates.txt", "a {c}\na photo\n"), "line 2 is 'a photo'; expected a text with {c}"),
        (write, edit("zeroshot_classification_templates.txt", "{c}"), "are both in"),
        (write, edit("classnames.txt", "a\nb\n"), "has 2 names for 6 folders"),
        (write, edit("classnames.txt", "a\n\nb\nc\nd\ne\nf\n"), "line 2 is empty; delete it"),
        (write, edit("classnames.txt", "red\tred\nsmall\tb\n"), "differ, first in 'blue_square'"),
        (write, edit("classnames.txt", "red\tred\nred\tb\n"), "two lines name one folder"),
        (write, edit("classnames.txt", "a\n\u200b\nb\nc\nd\ne\n"), "of a class in"),
        (write, lambda raw: (raw / "empty").mkdir(), "the class 'empty' has no picture"),
        (write, lambda raw: [(raw / name).rename(raw / f".{name}") for name in COUNTS if name != "red"], "are ['red']"),
        (write, lambda raw: (raw / "loose.png").write_bytes(b""), "loose.png lies in no folder of a class"),
        (write, lambda raw: (raw / "test" / "red").mkdir(parents=True), "lies beside test"),
        (write_tars, lambda raw: (raw / "classnames.txt").unlink(), "no classnames.txt with the names"),
        (write_tars, lambda raw: tar(raw / "test/1.tar", [("png", "3")]), "is '3'; expected a number from 0 to 2"),
        (write_tars, lambda raw: tar(raw / "test/1.tar", [("png", "red")]), "its class is 'red'; expected a number"),
        (write_tars, lambda raw: tar(raw / "test/1.tar", [("png", "1" * 5000)]), "expected a number from 0 to 2"),
        (write_tars, lambda raw: tar(raw / "other/1.tar", [("png", "0")]), "1.tar is in other/; expected tars in"),
        (write_tars, lambda raw: tar(raw / "test/1.tar", [("png", None)]), "sample '00000' has no class"),
        (write_tars, lambda raw: tar(raw / "test/1.tar", [("", "1")]), "sample '00000' has no picture"),
        (write_tars, lambda raw: (raw / "test/1.tar").write_bytes(b"1" * 700), "not a complete tar archive"),
    ],
)
def test_a_wrong_folder_is_refused_by_name(tmp_path, make, change, message):
    change(make(tmp_path / "raw"))
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare(tmp_path / "raw")
    with contextlib.suppress(ConfigError):  # the doctor goes on after a fault
        imagefolder.Builder.survey(tmp_path / "raw", str)


def experiment(tiny, folder, design="cross", **changes):
    settings = tiny()
    (vocabulary,) = Path(settings.data.data_dir).rglob(prepared.VOCABULARY)
    settings.data.update(dataset="imagefolder", data_dir=str(folder.parents[1]), vocabulary=str(vocabulary))
    settings.data.eval_split = "test"
    if design == "none":
        settings.bridge.update(design="none", layers=0)
        settings.stages = {name: dict(stage, losses=("itc",)) for name, stage in settings.stages.items()}
        settings.losses = dict(itc=settings.losses.itc)
    settings.evals.retrieval.rerank_weight = WEIGHT
    settings.evals.zero_shot = common.zero_shot(**(dict(batch_size=4, bootstrap_samples=20) | changes))
    return config.parse(settings)


def twin(cfg, predict, params, kept, each):
    """Return the rank of each photo's class by each score, its scores of the classes, and the class of each photo.

    It takes one photo and one prompt at a time.
    """
    records, tokenizer = pipeline.open_split(cfg.data, "test"), text.load(cfg.data, cfg.text)
    size = cfg.evals["zero_shot"].batch_size
    photos = [
        states
        for images, _, valid in pipeline.images(cfg, "test", size)
        for states in np.asarray(predict.lower_image(params, images))[valid]
    ]
    said = [[tokenizer.encode([t.replace("{c}", n).replace("{}", n)] * size) for t in TEMPLATES] for n in NAMES]
    lower = [[(np.asarray(predict.lower_text(params, *one)), one[1]) for one in row] for row in said]
    mean = [sum(np.asarray(predict.unimodal_text(params, *one))[0] for one in row) / len(row) for row in lower]
    of_class = [vector / np.sqrt((vector**2).sum()) for vector in mean]
    scale = WEIGHT * heads.double_scale(params["heads"]["log_scale"], cfg.bridge)
    true = [NAMES.index(record["questions"][0].answers[0]) for record in records]
    ranks, values = {"unimodal": [], "rerank": []}, []
    for photo, own in zip(photos, true, strict=True):
        same = np.repeat(photo[None], size, axis=0)  # a whole batch, as the functions are compiled for
        cosine = [float(np.asarray(predict.unimodal_image(params, same))[0] @ vector) for vector in of_class]
        order = sorted(range(len(NAMES)), key=lambda number: -cosine[number])
        ranks["unimodal"].append(1 + order.index(own))
        joined = {}
        for number in order[:kept] if cfg.bridge.design != "none" else ():
            pairs = [Lower(image=same, text=states, text_mask=mask) for states, mask in lower[number][:each]]
            match = [float(np.asarray(predict.fused(params, pair)[1])[0]) for pair in pairs]
            joined[number] = sum(match) / each + scale * cosine[number]
        order[:kept] = sorted(joined, key=lambda number: -joined[number]) or order[:kept]
        ranks["rerank"].append(1 + order.index(own))
        values.append((cosine, joined))
    return ranks, values, true


def measured(ranks, true):
    """Return the three measures in percent."""
    of_class = {own: [rank == 1 for rank, other in zip(ranks, true, strict=True) if other == own] for own in true}
    values = {
        "accuracy": sum(rank == 1 for rank in ranks) / len(ranks),
        "accuracy_at_5": sum(rank <= 5 for rank in ranks) / len(ranks),
        "mean_per_class": sum(sum(hits) / len(hits) for hits in of_class.values()) / len(of_class),
    }
    return {name: 100 * value for name, value in values.items()}


@pytest.mark.parametrize(("design", "kept", "each"), [("cross", 4, 3), ("cross", 10, 1), ("none", 10, 1)])
def test_the_accuracy_is_that_of_a_plain_twin(tiny, folder, monkeypatch, design, kept, each):
    cfg = experiment(tiny, folder, design, rerank_classes=kept, rerank_templates=each)
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh), "zero_shot")
    evaluator, params = zero_shot.Evaluator(cfg, predict), runs.opened(cfg, "heads")
    zero_shot.Evaluator.check(cfg)
    scored, ranked = [], scores.ranks
    monkeypatch.setattr(scores, "ranks", lambda found, own: scored.append(found) or ranked(found, own))
    metrics = evaluator.final(params, "test", lambda *_: None)
    ranks, values, true = twin(cfg, predict, params, kept, each)
    step = 2 if design == "cross" else 1  # a batch is ranked by the embeddings, then by the bridge
    unimodal, last = np.concatenate(scored[::step]), np.concatenate(scored[step - 1 :: step])
    for row, (cosine, joined) in enumerate(values):
        np.testing.assert_allclose(unimodal[row], cosine, atol=1e-5)
        for number, value in joined.items():
            assert last[row, number] == pytest.approx(value, abs=1e-4)
    for score in zero_shot.SCORES if design == "cross" else ("unimodal",):
        for name, value in measured(ranks[score], true).items():
            key = f"zero_shot_{score}/{name}"
            assert metrics[key] == pytest.approx(value), key
            assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
    assert ("zero_shot_rerank/accuracy" in metrics) == (design == "cross") == (ranks["unimodal"] != ranks["rerank"])
    assert (metrics["zero_shot/photos"], metrics["zero_shot/classes"]) == (13, 6)
    rows = evaluator.table(metrics).rows
    assert [row[:3] for row in rows] == [(score, "13", "6") for score in zero_shot.SCORES[: len(rows)]]


def test_settings_that_do_not_fit_and_other_data_are_refused(tiny, folder):
    for changes, message in (
        (dict(rerank_templates=4), "rerank_templates is 4; expected 1 to 3"),
        (dict(rerank_classes=0), "rerank_classes is 0; expected 1 or more"),
        (dict(splits=("val",)), "has no split 'val'"),
    ):
        with pytest.raises(ConfigError, match=message):
            zero_shot.Evaluator.check(experiment(tiny, folder, **changes))
    cfg = experiment(tiny, folder)
    evaluator = zero_shot.Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh), "zero_shot"))
    evaluator._classes = evaluator._classes._replace(names=NAMES[:3])
    with pytest.raises(ConfigError, match="its line 4 is no longer 'red'"):
        evaluator.final(runs.opened(cfg, "heads"), "test", lambda *_: None)
    settings = tiny()
    settings.evals.zero_shot = common.zero_shot()
    with pytest.raises(ConfigError, match=r"has no classes \(no file .*classes.txt\), but the zero_shot"):
        zero_shot.Evaluator.check(config.parse(settings))


def test_a_run_is_scored_by_the_command(tiny, folder, small_shapes, tmp_path):
    runs.saved(config.parse(tiny()), tmp_path / "run")
    (vocabulary,) = small_shapes.rglob(prepared.VOCABULARY)
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={folder.parents[1]}", f"--vocabulary={vocabulary}"]
    given = ["--config=configs/zero_shot.py", "--evaluator=zero_shot", "--config.evals.zero_shot.bootstrap_samples=20"]
    done = process.run("tools.evaluate", *flags, *given, "--split=test")
    assert done.returncode == 0, done.stderr
    assert "imagefolder/test, step 1" in done.stdout
    assert re.search(r"rerank +│ +13 │ +6 │", done.stdout)
