"""The ONNX graphs in onnxruntime against the PyTorch model that they come from, and the lines of their README.

The browser's test needs two packages of npm beside Chromium; docs/contributing.md has the command.
"""

import contextlib
import functools
import http.server
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.data.text import Tokenizer
from bridge_jax.interop import torch_export, torch_onnx
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.workdir.meta import Meta
from tests import browsers, process, tiny

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "house", *"bcdefghijklm"]
MODELS = {  # name -> losses, towers
    "vit_bert": (("itc", "itm", "caption"), {}),
    "registers_xlm_roberta": (
        ("vqa_generative",),
        dict(  # whose positions are resized with antialiasing
            vision=dict(tower="dinov2_with_registers", layer_scale=True, position_grid=3),
            text=dict(tower="xlm_roberta", token_types=1),
        ),
    ),
    "clip": (("itc", "itm"), dict(vision=dict(tower="clip"), text=dict(tower="clip", token_types=0))),
    "siglip": (("itc", "itm"), dict(vision=dict(tower="siglip"), text=dict(tower="siglip", token_types=0))),
    "dinov3_modernbert": (
        ("itc", "itm"),
        dict(vision=dict(tower="dinov3", layer_scale=True), text=dict(tower="modernbert", token_types=0)),
    ),
}
DECODERS = ("vit_bert", "registers_xlm_roberta")  # the first reads the picture, the second picture and text
NPM = Path(sys.prefix, "npm")


def exported(folder: Path, losses: tuple[str, ...] = ("itc",), vision=None, text=None, **sections) -> Path:
    """Write a model of two blocks a tower."""
    sections = {"bridge": dict(layers=1)} | sections
    shallow = {"vision": dict(depth=2) | (vision or {}), "text": dict(depth=2) | (text or {})}
    cfg = tiny.config(stage=dict(losses=losses), **shallow, **sections)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    meta = Meta(schema=SCHEMA, step=1, stage="train", config=as_dict(cfg))
    tokenizer = Tokenizer(vocabulary, cfg.text.length)
    torch_export.write(folder / "exported", cfg, tiny.params(cfg), meta, tokenizer, "")
    return folder / "exported"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function from a name of MODELS to its PyTorch and its ONNX folder."""

    @functools.cache
    def make(name):
        losses, towers = MODELS[name]
        folder = exported(tmp_path_factory.mktemp(name), losses, **towers)
        torch_onnx.export(folder, folder.parent / "onnx")
        return folder, folder.parent / "onnx"

    return make


def run(file: Path, **inputs: np.ndarray | torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file)
    arrays = session.run(None, {name: np.asarray(tensor) for name, tensor in inputs.items()})
    return dict(zip((output.name for output in session.get_outputs()), arrays, strict=True))


def lines(folder: Path, language: str, picture: str) -> str:
    """Return the code of the README, about this folder and picture."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("a.jpg", picture)


def run_python(folder: Path, beside: Path) -> dict:
    """Draw a picture in the folder `beside`, run the README's Python on it, and return its variables."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(beside / "drawn.png")
    code = lines(folder, "python", str(beside / "drawn.png")).replace("FOLDER", str(folder))
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_what_pytorch_does(folders, name):
    folder, onnx = folders(name)
    model = BridgeModel.from_pretrained(folder)
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(30).reshape(5, 6) % 15 + 5
    mask = (torch.arange(6) < torch.tensor([[6], [1], [3], [5], [2]])).long()
    of = torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        images, texts = model.get_image_features(pixels).numpy(), model.get_text_features(ids, mask).numpy()
        logits, scores = (each.numpy() for each in model.match_pairs(pixels, ids, mask, of, torch.arange(5)))
    image = run(onnx / "image_embedding.onnx", pixel_values=pixels)
    assert np.abs(image["image_embeds"] - images).max() <= 1e-5
    pairs = {key: value[of] for key, value in image.items()}
    found = []
    for words in (ids, torch.where(mask == 1, ids, 7)):  # whatever the padding
        text = run(onnx / "text_embedding.onnx", input_ids=words, attention_mask=mask)
        found.append(text["text_embeds"])
        assert np.abs(found[-1] - texts).max() <= 1e-5
        match = run(onnx / "match.onnx", **pairs, **text, attention_mask=mask)
        assert np.abs(match["match_logits"] - logits).max() <= 2e-5
        assert np.abs(match["scores"] - scores).max() <= 2e-5
    np.testing.assert_array_equal(*found)
    assert np.ptp(logits) > 0.01


@pytest.mark.parametrize("name", DECODERS)
def test_the_lines_of_the_readme(folders, tmp_path, name):
    folder, onnx = folders(name)
    model, names = BridgeModel.from_pretrained(folder), run_python(onnx, tmp_path)
    pixels = torch.tensor(names["pixels"].transpose(2, 0, 1)[None])
    captions, frame = ({key: torch.tensor(ids) for key, ids in names[of].items()} for of in ("captions", "frame"))
    caption = names["caption"]
    with torch.no_grad():
        scores = model.match(pixels, **captions).scores.numpy()
        logits = model.caption_logits(pixels, **frame, caption_ids=torch.tensor([caption])).numpy()
    assert np.abs(names["found"]["scores"] - scores).max() <= 2e-5
    assert caption[0] == WORDS.index("[CLS]")
    assert len(caption) == 5 or caption[-1] == WORDS.index("[SEP]")
    assert logits[0].argmax(-1)[:-1].tolist() == caption[1:]  # greedy
    assert np.abs(names["step"]["logits"] - logits[:, -2]).max() <= 2e-5


def test_large_weights_lie_beside_the_graph_in_8_bits_too(tmp_path, monkeypatch):
    graphs = torch_onnx._graphs
    monkeypatch.setattr(torch_onnx, "_graphs", lambda *of: itertools.islice(graphs(*of), 1))
    monkeypatch.setattr(torch_onnx, "MOST_BYTES", 0)
    sizes = torch_onnx.export(exported(tmp_path), tmp_path / "onnx", parts=(), int8=True)
    assert sizes.keys() == {"image_embedding"}
    assert (tmp_path / "onnx/image_embedding.onnx.data").stat().st_size > 10_000
    found = run(tmp_path / "onnx/image_embedding.onnx", pixel_values=np.zeros((1, 3, 8, 8), np.float32))
    assert {key: value.shape for key, value in found.items()} == {"image_embeds": (1, 16)}


def export_onnx(*arguments):
    return process.run("tools.export_onnx", *arguments)


def test_the_command_writes_8_bits(folders, tmp_path):
    folder, onnx = folders("clip")
    out = tmp_path / "int8"
    done = export_onnx(folder, f"--out={out}", "--int8")
    assert (done.returncode, done.stderr) == (0, "")
    first, *graphs = done.stdout.splitlines()
    assert first == f"{out}: {folder} as ONNX, weights in 8 bits"
    sizes = {path.stem: f"{path.stat().st_size / 1e6:.1f} MB" for path in out.glob("*.onnx")}
    assert dict(line.strip().split(": ") for line in graphs) == sizes
    assert sizes.keys() == {"image_embedding", "text_embedding", "match"}
    exact, rounded = (run_python(each, tmp_path) for each in (onnx, out))
    for name, most in (("image_embeds", 0.1), ("image_states", 0.5)):
        assert 0 < np.abs(exact["image"][name] - rounded["image"][name]).max() < most
    assert np.abs(exact["texts"]["text_embeds"] - rounded["texts"]["text_embeds"]).max() < 0.1
    for graph in sizes:
        assert (out / f"{graph}.onnx").read_bytes() != (onnx / f"{graph}.onnx").read_bytes()
    again = export_onnx(folder, f"--out={out}")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_what_a_folder_lacks_is_one_line(tmp_path):
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower/config.json").write_text('{"model_type": "vit"}')
    alone = exported(tmp_path, bridge=dict(design="none", layers=0))
    for source, parts, says in (
        (tmp_path / "tower", None, "tower: expected a folder that tools.export_pytorch wrote, got another model"),
        (alone, ["match"], "exported has no bridge: leave match out of --parts"),
        (alone, ["decoder"], "exported has no decoder: leave decoder out of --parts"),
        (alone, ["text"], "--parts: 'text' is none; expected any of match, decoder"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            torch_onnx.export(source, tmp_path / "onnx", parts)
    assert not (tmp_path / "onnx").exists()


def test_a_missing_extra_is_one_line(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")
    command = [sys.executable, "-m", "tools.export_onnx", str(tmp_path), f"--out={tmp_path / 'out'}", "--int8"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=process.ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: onnxruntime is missing: pip install 'bridge_jax[onnx]'\n")


PAGE = """<!doctype html>
<meta charset="utf-8">
<title>A BRIDGE model in a browser</title>
<style>body { font: 16px sans-serif; margin: 2rem } img { width: 8rem; image-rendering: pixelated } td { padding: 4px }
</style>
<script>onerror = onunhandledrejection = event => { window.fault = String(event.reason ?? event) }</script>
<script type="importmap">{"imports": {
  "onnxruntime-web/wasm": "./npm/onnxruntime-web/dist/ort.wasm.min.mjs",
  "@huggingface/tokenizers": "./npm/@huggingface/tokenizers/dist/tokenizers.min.mjs"
}}</script>
<img src="drawn.png" alt="">
<table id="table"><tr><th>caption<th>cosine<th>score</table>
<script type="module">
CODE
const { image_embeds: { data: v } } = image, { text_embeds: { data: t } } = texts;
["a dog", "a house"].forEach((caption, row) => {
  const cosine = v.reduce((sum, value, i) => sum + value * t[row * v.length + i], 0);
  const line = document.getElementById("table").insertRow();
  for (const cell of [caption, cosine.toFixed(4), found.scores.data[row].toFixed(4)])
    line.insertCell().textContent = cell;
});
const all = { ...image, ...texts, ...found, ...captions };
window.found = Object.fromEntries(Object.entries(all).map(([name, { data, dims }]) => [name, {
  values: Array.from(data, Number), dims
}]));
</script>
"""


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on the loopback interface and yield its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def npm_packages(readme: str) -> Path:
    """Return the packages that the README names, or skip the test."""
    packages = re.search(r"`npm install (.*?)`", readme)[1]
    assert f"npm install --prefix .venv/npm {packages}`" in (process.ROOT / "docs/contributing.md").read_text()
    for name, version in (package.rsplit("@", 1) for package in packages.split()):
        about = NPM / "node_modules" / name / "package.json"
        if not about.is_file() or json.loads(about.read_text())["version"] != version:
            pytest.skip(f"npm install --prefix {NPM} {packages}")
    return NPM / "node_modules"


def test_a_browser_computes_the_same(folders, tmp_path):
    _, onnx = folders("vit_bert")
    packages = npm_packages((onnx / "README.md").read_text())
    names = run_python(onnx, tmp_path)
    (tmp_path / "npm").symlink_to(packages)
    (tmp_path / "onnx").symlink_to(onnx)
    code = lines(onnx, "javascript", "drawn.png").replace("FOLDER", "onnx")
    (tmp_path / "index.html").write_text(PAGE.replace("CODE", code))
    with browsers.started() as browser, served(tmp_path) as address:
        page = browser.new_page(viewport={"width": 600, "height": 400})
        page.set_default_timeout(browsers.TIMEOUT_MS)
        page.goto(address)
        page.wait_for_function("window.found || window.fault")
        assert page.evaluate("window.fault") is None
        found = page.evaluate("window.found")
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder, "onnx.png"))
    for name, expected in (names["image"] | names["texts"] | names["found"] | names["captions"]).items():
        values = np.reshape(found[name]["values"], found[name]["dims"])
        assert np.abs(values - expected).max() <= 1e-4, name
