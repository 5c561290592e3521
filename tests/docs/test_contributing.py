"""The worked examples of docs/contributing.md, run as the page prints them in a copy of the package.

The files go where the page says, and its commands train tiny models for two steps. What each example computes has an
oracle besides: pairs in a loop for the loss, known embeddings for the evaluator, the raw folder for the data set.
"""

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bridge_jax.config import evaluators, parse
from bridge_jax.data import pipeline
from bridge_jax.types import Batch, Outputs
from tests import process
from tests.docs.test_commands import given, words_of
from tests.test_architecture import (
    PACKAGE,
    floor_violations,
    home_violations,
    idiom_violations,
    length_violations,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)}
PARTS = ("Add a loss", "Add a tower", "Add a data set", "Add an evaluator")
PLACE = "    # the lines of a section\n"
LINES_OF_A_FILE = 55
SMALL = (
    *(f"--config.{side}.{key}" for side in ("vision", "text") for key in ("depth=1", "width=32", "heads=2")),
    *("--config.vision.mlp_width=32", "--config.text.mlp_width=32", "--config.bridge.layers=1"),
    *("--config.bridge.shared_width=32", "--config.stages.stabilise.steps=2", "--config.log_every_steps=1"),
    *("--config.stages.stabilise.batch_size=8", "--config.evals.retrieval.splits=('val',)"),
    *("--config.evals.retrieval.rerank_top_k=2", "--config.evals.retrieval.bootstrap_samples=10"),
)
SMALL_ALBUM = (
    *("--config.vision.pretrained=", "--config.text.pretrained=", "--config.vision.image_px=28"),
    *("--config.losses.token_itc.group=4", "--config.stage_order=('stabilise',)"),
)


def files(section):
    """Return path -> text of the files that a section prints."""
    return dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


def lines(name):
    """Return the lines that a section adds to configs/mine.py."""
    pattern = r"^Lines? of `configs/mine\.py`[^\n]*:[^\n]*\n\n```python\n(.*?)^```"
    return "".join(re.findall(pattern, SECTIONS[name], re.MULTILINE | re.DOTALL))


def commands(name):
    blocks = re.findall(r"^```bash\n(.*?)^```", SECTIONS[name], re.MULTILINE | re.DOTALL)
    return words_of("\n".join(blocks))


FILES = {path: text for section in SECTIONS.values() for path, text in files(section).items()}


@pytest.fixture(scope="module")
def copy(small_shapes, tmp_path_factory):
    """A copy of the package with the page's files, and the small set of shapes as its data."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("bridge_jax", "configs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, text in FILES.items():
        assert not (folder / path).exists(), path
        (folder / path).write_text(text, encoding="utf-8")
    (folder / "data/cache").mkdir(parents=True)
    (folder / "data/shapes").symlink_to(small_shapes / "shapes")
    programs = ROOT / ".pytest_cache" / "jax"
    programs.mkdir(parents=True, exist_ok=True)
    (folder / "data/cache/xla").symlink_to(programs)
    return folder


def run(copy, words, *more):
    assert words[:2] == ["python", "-m"], words
    done = process.run(*words[2:], *more, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mine(copy, *names):
    """Write configs/mine.py with the lines of these sections."""
    text = FILES["configs/mine.py"]
    assert text.count(PLACE) == 1
    (copy / "configs/mine.py").write_text(text.replace(PLACE, "".join(map(lines, names))), encoding="utf-8")


def metrics(workdir):
    merged = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        merged.setdefault(entry["step"], {}).update(entry)
    return merged


def module(path, folder):
    """Import a file that the page prints, beside the package of this repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, folder / path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_section_has_its_file_and_its_lines():
    folders = ("bridge_jax/losses/", "bridge_jax/models/", "bridge_jax/data/datasets/", "bridge_jax/evals/")
    for name, folder in zip(PARTS, folders, strict=True):
        assert [path for path in files(SECTIONS[name]) if path.startswith(folder)], name
        assert bool(lines(name)) == (name != "Add a data set"), name
    assert PAGE.count("```python\n") == len(FILES) + sum(bool(lines(name)) for name in PARTS)


def test_the_files_are_short_and_keep_the_rules_of_the_house(copy):
    known = [*PACKAGE, *FILES]
    for path, text in FILES.items():
        assert len(text.splitlines()) <= LINES_OF_A_FILE, path
        assert floor_violations(path, text, known) == []
        for check in (home_violations, idiom_violations, length_violations):
            assert check(path, text) == [], path
    for command in (["check"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *command, *FILES]
        done = subprocess.run(words, cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(copy):
    """The workdir of a run with the loss and the tower."""
    mine(copy, "Add a loss", "Add a tower")
    prepare, train = commands("Add a part")
    assert "is prepared already" in run(copy, prepare)
    run(copy, train, *SMALL)
    return copy / given(train, "workdir")


def test_the_loss_is_logged_and_the_tower_trains(copy, trained):
    logged = re.findall(r"`(train/text_uniformity/\w+)`", SECTIONS["Add a loss"])
    assert len(logged) == 2
    for step in (1, 2):
        assert all(np.isfinite(metrics(trained)[step][name]) for name in (*logged, "train/loss"))
    (path,) = re.findall(r"`(vision/patch/\S+)`", SECTIONS["Add a tower"])
    (show,) = commands("Add a tower")
    rows = dict(line.split(maxsplit=1) for line in run(copy, show).splitlines())
    assert rows[path].endswith("x1 decay")
    assert "vision/patch/kernel" not in rows


def test_an_evaluator_that_is_added_scores_the_run_that_has_ended(copy, trained):
    before = metrics(trained)
    mine(copy, "Add a loss", "Add a tower", "Add an evaluator")
    _, train = commands("Add a part")
    shown = run(copy, train, *SMALL)
    (name,) = re.findall(r"`(final/val/forced_choice/\w+)`", SECTIONS["Add an evaluator"])
    after = metrics(trained)
    assert name not in before[2]
    assert re.search(r"│ of two pictures │ +([\d.]+) │", shown)[1] == f"{after[2][name]:.1f}"
    assert "step 2/2" not in shown
    assert after[1] == before[1]


def test_each_section_does_alone(copy):
    names = [name for name in PARTS if lines(name)]
    for number, name in enumerate(names):
        text = FILES["configs/mine.py"].replace(PLACE, lines(name))
        (copy / f"configs/alone_{number}.py").write_text(text, encoding="utf-8")
    script = "import importlib, sys; from bridge_jax.config import parse\n"
    script += "for name in sys.argv[1:]: parse(importlib.import_module(name).get_config())"
    words = [sys.executable, "-c", script, *(f"configs.alone_{number}" for number in range(len(names)))]
    done = subprocess.run(words, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def album(copy):
    """A raw folder of 20 photos, two captions each, and a vocabulary of their words."""
    raw, draw = copy / "raw", np.random.default_rng(0)
    raw.mkdir()
    rows = []
    for number in range(20):
        Image.fromarray(draw.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(raw / f"{number}.jpg")
        rows += [f"{number}.jpg\ta dog", f"{number}.jpg\t two dogs "]
    (raw / "captions.tsv").write_text("\n".join(rows) + "\n")
    (copy / "data/minilm").mkdir()
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "two", "dog", "dogs")
    (copy / "data/minilm/vocab.txt").write_text("\n".join(words))
    return raw


def test_the_data_set_is_examined_prepared_and_trained_on(copy, album):
    doctor, prepare, train = (
        [word.replace("=DIR", f"={album}") for word in words] for words in commands("Add a data set")
    )
    assert run(copy, doctor).endswith("nothing found\n")
    assert run(copy, prepare).endswith(": train 18, val 2\n")
    records = tfds.builder_from_directory(copy / "data/album/1.0.0").as_data_source()
    assert [record["filename"].decode() for record in records["val"]] == ["0.jpg", "10.jpg"]
    assert {tuple(record["captions"]) for split in records.values() for record in split} == {(b"a dog", b"two dogs")}
    assert records["val"][1]["image_id"] == 10
    run(copy, train, *SMALL, *SMALL_ALBUM)
    assert np.isfinite(metrics(copy / given(train, "workdir"))[2]["train/loss"])


def test_the_data_set_refuses_a_line_without_a_caption(copy, album):
    found, faults = module("bridge_jax/data/datasets/album.py", copy).Builder, []
    file = album.parent / "wrong" / "captions.tsv"
    file.parent.mkdir()
    file.write_text("a.jpg\ta dog\nb.jpg\n../c.jpg\ta dog\n")
    splits = found.survey(file.parent, faults.append)
    assert [photo.path.name for split in splits.values() for photo in split] == ["a.jpg"]
    assert [re.search(r"line (\d)", fault)[1] for fault in faults] == ["2", "3"]


def test_the_loss_is_its_equation(copy):
    draw, B, sharpness = np.random.default_rng(0), 5, 2.0
    text = draw.normal(size=(B, 4))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    outputs = Outputs(logit_scale=1.0, unimodal_text=np.float32(text))
    batch = Batch(image_ids=np.arange(B), text_mask=np.ones((B, 3), bool))
    found = module("bridge_jax/losses/text_uniformity.py", copy).loss(outputs, batch, sharpness=sharpness)
    pairs = list(itertools.permutations(text, 2))
    expected = np.log(np.mean([np.exp(-sharpness * np.sum((a - b) ** 2)) for a, b in pairs]))
    np.testing.assert_allclose(found.mean, expected, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["cosine"], np.mean([a @ b for a, b in pairs]), rtol=1e-5)


@pytest.mark.parametrize(("shift", "accuracy"), [(0, 100.0), (None, 0.0)])
def test_the_evaluator_counts_captions_nearer_to_their_own_picture(copy, tiny, shift, accuracy):
    """With the right one-hot vectors all are, with one vector for everything none is: a tie is wrong."""
    cfg, size = parse(tiny()), 16
    evaluator = module("bridge_jax/evals/forced_choice.py", copy).Evaluator
    settings = evaluator.Settings(batch_size=size, splits=("val",))
    ids = [record["image_id"] for record in pipeline.open_split(cfg.data, "val")]
    owners = iter([rows for _, _, rows, _, _ in pipeline.captions(cfg, "val", size)])
    numbers = iter([rows for _, rows, _ in pipeline.images(cfg, "val", size)])

    def embed(image_ids):
        return np.eye(len(ids))[[ids.index(number) if shift == 0 else 0 for number in image_ids]]

    predict = SimpleNamespace(
        rows=tuple(range(size)),
        lower_image=lambda params, images: images,
        lower_text=lambda params, words, mask: words,
        unimodal_image=lambda params, lower: embed(next(numbers)),
        unimodal_text=lambda params, lower, mask: embed(next(owners)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluators, "settings", lambda cfg, name: settings)
        found = evaluator(cfg, predict).final({}, "val", lambda *_: None)
    assert found == {"forced_choice/accuracy": accuracy}


def test_the_stem_halves_the_picture_to_one_token_a_patch(copy, tiny):
    cfg = parse(tiny()).vision
    stem = module("bridge_jax/models/conv_vit.py", copy).Stem(cfg, np.float32)
    pixels = np.zeros((2, cfg.image_px, cfg.image_px, 3), np.float32)
    side = cfg.image_px // cfg.patch_px
    states, params = jax.eval_shape(lambda: stem.init_with_output(jax.random.key(0), pixels))
    assert states.shape == (2, side, side, cfg.width)
    kernels = [params["params"][f"conv_{i}"]["kernel"].shape for i in range(4)]
    assert [shape[2:] for shape in kernels] == [(3, 4), (4, 8), (8, 16), (16, 32)]
