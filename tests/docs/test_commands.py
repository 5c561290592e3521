"""Every command that the README, docs/ and the configs' docstrings give, run or at least parsed.

Run, shrunken: `tools.prepare_data` (of all but photos with captions in test_commands_data.py) and `tools.doctor` on
hand-made raw folders, and for configs/shapes.py `bridge_jax.main` (also --dry_run), `tools.evaluate`,
`tools.export_stablehlo`, `tools.export_pytorch`, `tools.export_onnx` of that and the way back, and between them the
script for PyTorch users.
Parsed by the program's own flag definitions in test_flags.py, with the config loaded and checked: the photo
experiments' `bridge_jax.main` and `tools.evaluate`; configs/coco.py really runs in tests/whole/test_coco.py,
`tools.plan` in tests/plan/test_planner.py, `tools.ablate` in tests/tools/test_ablate.py, `tools.push` in
tests/interop/test_hub.py and `tools.search` in tests/index/test_search_tool.py. Checked against the config:
`hf download` and `tools.import_hf` of a tower, which need the network. Checked for syntax: `launch/*.sh`. The blocks of
docs/contributing.md add files to the package, so test_contributing.py runs them in a copy of it; those of
docs/own_photos.md need a folder of photos, so test_own_photos.py runs them there.
"""

import ast
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.workdir.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
OF_A_COPY = ROOT / "docs/contributing.md"
CONFIGS = {
    path.stem: importlib.import_module(f"configs.{path.stem}")
    for path in sorted((ROOT / "configs").glob("*.py"))
    if path.stem not in ("__init__", "common")
}
IMAGES = {"flickr8k": "images", "flickr30k": "flickr30k-images", "coco": "."}
MODULE = ("python", "-m")


def blocks(*pages):
    texts = [path.read_text(encoding="utf-8") for path in pages]
    return [block for text in texts for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def words_of(lines):
    """Return each command once, as the list of its words."""
    split = [shlex.split(line, comments=True) for line in lines.replace("\\\n", " ").splitlines()]
    return [list(words) for words in dict.fromkeys(tuple(words) for words in split if words)]


def docstrings():
    indented = []
    for module in CONFIGS.values():
        indented.append("\n".join(line.strip() for line in module.__doc__.splitlines() if line.startswith("    ")))
    return indented


def commands():
    """Return the commands of the pages' blocks and of the docstrings."""
    return words_of("\n".join([*blocks(*(page for page in PAGES if page != OF_A_COPY)), *docstrings()]))


def of(*start):
    return [words for words in commands() if words[: len(start)] == list(start)]


def prepares(*datasets):
    return [words for words in of("python", "-m", "tools.prepare_data") if given(words, "dataset") in datasets]


def name_of(words):
    return " ".join(words)


def given(words, flag):
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"--{flag}=")), None)


def run(words):
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done


def test_every_command_is_of_a_kind_that_is_tested_here():
    tools = ("ablate", "prepare_data", "evaluate", "import_hf", "export_pytorch", "export_stablehlo", "export_onnx")
    programs = [
        ("python", "-m", f"tools.{name}")
        for name in (
            *tools,
            "plan",
            "doctor",
            "push",
            "report",
            "search",
            "bench",
            "bench_data",
            "bench_prepare",
            "bench_rerank",
            "bench_search",
        )
    ]
    kinds = [("bash",), ("hf", "download"), ("python", "-m", "bridge_jax.main"), *programs]
    assert [words for words in commands() if not any(tuple(words[: len(kind)]) == kind for kind in kinds)] == []
    assert all(of(*kind) for kind in kinds)


@pytest.mark.parametrize("words", of("bash"), ids=name_of)
def test_shell_scripts_are_there_and_parse(words):
    run(["bash", "-n", words[1]])


@pytest.mark.parametrize("words", of("hf", "download"), ids=name_of)
def test_downloads_are_of_a_tower_that_a_config_uses(words):
    towers = {config.parse(module.get_config()).text.pretrained for module in CONFIGS.values()}
    assert words[2] in towers
    path = f"{given(words, 'local-dir')}/{words[3]}"
    used = {given(other, "config.data.vocabulary") for other in commands()}
    used |= {config.parse(module.get_config()).data.vocabulary for module in CONFIGS.values()}
    assert path in used


@pytest.mark.parametrize(
    "words", [w for w in of("python", "-m", "tools.import_hf") if not given(w, "workdir")], ids=name_of
)
def test_imports_are_of_a_tower_that_a_config_uses(words):
    assert len(words) == 4
    assert words[3] in {config.parse(module.get_config()).vision.pretrained for module in CONFIGS.values()}


@pytest.mark.parametrize("words", prepares(*IMAGES), ids=name_of)
def test_photos_are_prepared_from_the_layout_that_is_described(words, tmp_path):
    changed = photos_for(words, tmp_path)
    assert run([sys.executable, *changed[1:]]).stdout.endswith("train 2, val 1, test 1\n")


def photos_for(words, tmp_path):
    """Write raw photos of the data set that the command is about, and return the command on them."""
    dataset = given(words, "dataset")
    entries = []
    for number, split in enumerate(("train", "train", "val", "test")):
        entry = {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": [{"raw": "a dog"}]}
        if dataset == "coco":
            entry |= {"filepath": "train2014" if split == "train" else "val2014", "cocoid": number}
        entries.append(entry)
        path = tmp_path / "raw" / IMAGES[dataset] / entry.get("filepath", "") / entry["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), 50 * number, np.uint8)).save(encoded, "JPEG")
        path.write_bytes(encoded.getvalue())
    (tmp_path / "raw" / f"dataset_{dataset}.json").write_text(json.dumps({"images": entries}))
    return [word.replace("=DIR", f"={tmp_path / 'raw'}").replace("=data", f"={tmp_path / 'data'}") for word in words]


@pytest.mark.parametrize(
    "words", [w for w in of("python", "-m", "tools.doctor") if given(w, "dataset") != "folder"], ids=name_of
)
def test_the_doctor_examines_what_is_described(words, tmp_path):
    changed = photos_for(words, tmp_path)
    if given(words, "data_dir"):
        every = of("python", "-m", "tools.prepare_data")
        (prepare,) = (other for other in every if given(other, "dataset") == given(words, "dataset"))
        run([sys.executable, *photos_for(prepare, tmp_path)[1:]])
    if vocabulary := given(changed, "vocabulary"):
        Path(vocabulary).parent.mkdir()
        Path(vocabulary).write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog")))
    changed = [word.replace("json=", f"json={tmp_path}/") for word in changed]
    done = subprocess.run([sys.executable, *changed[1:]], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (1, "")  # four photos are not as many as were published
    assert "warning: split_size: 3, " in done.stdout
    assert done.stdout.endswith("\n1 warning\n")
    if target := given(words, "json"):
        assert json.loads((tmp_path / target).read_text())["splits"] == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize("words", of("python", "-m", "bridge_jax.main"), ids=name_of)
def test_photo_experiments_have_all_that_they_need(words):
    name = Path(given(words, "config")).stem
    if name == "shapes":
        return
    settings = CONFIGS[name].get_config()
    vocabulary = given(words, "config.data.vocabulary") or settings.data.vocabulary
    assert vocabulary, "no vocabulary: the run would stop at once"
    downloads = [f"{given(other, 'local-dir')}/{other[3]}" for other in of("hf", "download")]
    assert vocabulary in downloads
    assert given(words, "config.init_from") in (None, *[given(other, "workdir") for other in commands()])


@pytest.fixture(scope="module")
def one_stage(tiny_flags):
    """The tiny experiment with stage `stabilise` alone; a tuple that is given twice would be joined."""
    rest = [flag for flag in tiny_flags if not flag.startswith("--config.stage_order=")]
    return [*rest, "--config.stage_order=('stabilise',)"]


@pytest.fixture(scope="module")
def workdir(one_stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    run([sys.executable, "-m", "bridge_jax.main", *one_stage, f"--workdir={folder}"])
    return folder


@pytest.mark.parametrize(
    "words", [w for w in of("python", "-m", "tools.evaluate") if "runs/shapes" in name_of(w)], ids=name_of
)
def test_evaluation_of_shapes_runs(words, workdir, tmp_path):
    changed = [word.replace("=runs/shapes", f"={workdir}").replace("json=", f"json={tmp_path}/") for word in words]
    done = run([sys.executable, *changed[1:]])
    saves = Checkpoints(workdir, read_only=True)
    step = 4 if given(words, "checkpoint") == "latest" else saves.best()
    assert f"shapes/{given(words, 'split')}, step {step}" in done.stdout
    assert done.stderr == ""
    if target := given(words, "json"):
        assert json.loads((tmp_path / target).read_text())["step"] == step


@pytest.mark.parametrize("words", of("python", "-m", "tools.report"), ids=name_of)
def test_report_of_shapes_runs(words, workdir, tmp_path):
    changed = [f"{workdir}" if word.startswith("runs/") else word for word in words]
    changed = [re.sub(r"^(--out=|--parquet=)", rf"\1{tmp_path}/", word) for word in changed]
    quick = ["--photos=0", "--points=12" if given(words, "parquet") else "--points=0"]
    out = Path(run([sys.executable, *changed[1:], *quick]).stdout.strip())
    assert out.parent == (tmp_path if given(words, "out") else workdir)
    page = out.read_text(encoding="utf-8")
    two = "runs/mine" in words
    shown = ["They have the same config", "B - A"] if two else ["itc/loss", "gate/layer_0", "Queries", "joined"]
    for part in ("4 of 4 steps, stage stabilise", "Where its", ">unimodal<", *shown):
        assert part in page
    if points := given(words, "parquet"):
        assert (tmp_path / points).stat().st_size > 1000


@pytest.mark.parametrize("words", [w for w in of("python", "-m", "bridge_jax.main") if "--dry_run" in w], ids=name_of)
def test_dry_run_runs(words, one_stage):
    done = run([sys.executable, *words[1:3], *one_stage, "--dry_run"])
    assert "stage stabilise: trains" in done.stdout


def test_the_way_to_pytorch_and_back(workdir, tmp_path):
    (export,), (back,) = (
        [words for words in of("python", "-m", tool) if given(words, "workdir")]
        for tool in ("tools.export_pytorch", "tools.import_hf")
    )
    script, *_ = re.findall(  # tests/interop/test_sentence_transformers.py runs the others
        r"^```python\n(.*?)^```", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(script.splitlines()) < 15
    exported = tmp_path / given(export, "out")
    run([sys.executable, *export[1:3], f"--workdir={workdir}", f"--out={exported}"])

    draw = np.random.default_rng(0)
    for name in ("one.jpg", "two.jpg"):
        Image.fromarray(draw.integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(tmp_path / name)
    quiet = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["0", "1"]
    captions = ast.literal_eval(re.search(r"captions = (.*)", script)[1])
    for line in lines:
        best = ast.literal_eval(line.split(" ", 1)[1])
        assert len(set(best)) == 3
        assert set(best) < set(captions)

    (onnx,) = of("python", "-m", "tools.export_onnx")
    run([sys.executable, *onnx[1:3], str(exported), f"--out={tmp_path / 'onnx'}"])
    run([sys.executable, *back[1:3], str(exported), f"--workdir={tmp_path / 'back'}"])
    assert Checkpoints(tmp_path / "back", read_only=True).best() == Checkpoints(workdir, read_only=True).best()


def test_the_way_to_stablehlo(workdir, tmp_path):
    (export,) = of("python", "-m", "tools.export_stablehlo")
    served = tmp_path / given(export, "out")
    run([sys.executable, *export[1:3], f"--workdir={workdir}", f"--out={served}"])
    assert (served / "README.md").is_file()
