"""The exported folder: what is in it, that it stands alone, and that a failed export leaves nothing."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import image, text
from bridge_jax.interop import hf_import, torch_export
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.interop.torch_model.processing_bridge import BridgeImageProcessor
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process, profiles
from tests import tiny as tiny_model
from tests.interop.stranger import ALONE

ROOT = Path(__file__).resolve().parents[2]
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# Says what it computed, as JSON.
STRANGER = (
    ALONE
    + """
import json
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer
folder, photo, captions = sys.argv[1], sys.argv[2], sys.argv[3:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert not model.training
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=[photo] * len(captions), text=captions)
output = model(**inputs)
found = {name: value.tolist() for name, value in {**inputs, **output}.items()}
found["scores"] = model.match(**inputs).scores.tolist()
alone = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)(photo, return_tensors="pt").pixel_values
assert (alone == inputs["pixel_values"][:1]).all()
ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(captions, padding="max_length", truncation=True)
assert ids["input_ids"] == found["input_ids"]
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "bridge"
card = open(f"{folder}/README.md").read().split("```python")[1].split("```")[0]
exec(card.replace("FOLDER", "folder").replace('"a.jpg", "b.jpg"', "photo, photo"))
assert scores.shape == (2, 3)
print(json.dumps(found))
"""
)


def export(*arguments):
    return process.run("tools.export_pytorch", *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def photo(tmp_path) -> Path:
    """A large JPEG that is no square, and turned by EXIF: the draft size, the crop and the orientation all matter."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 13, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse.resize((650, 450), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


def test_the_command_writes_the_same_bytes_as_before(run, exported, tmp_path):
    done = export(f"--workdir={run}", f"--out={tmp_path / 'again'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{tmp_path / 'again'}: step 2 of {run}, [\d,]+ parameters\n", done.stdout)
    assert contents(tmp_path / "again") == contents(exported)
    assert len({path.stat().st_mode for path in (tmp_path / "again").iterdir()}) == 1
    assert contents(exported).keys() == {
        *("config.json", "configuration_bridge.py", "modeling_bridge.py", "modeling_bridge_interaction.py"),
        *("modeling_bridge_clip.py", "modeling_bridge_dinov3.py", "modeling_bridge_modernbert.py"),
        *("modeling_bridge_known_towers.py", "modeling_bridge_tipsv2.py"),
        *("modeling_bridge_decoder.py", "modeling_bridge_heads.py", "modeling_bridge_outputs.py"),
        *("modeling_bridge_towers.py", "processing_bridge.py", "model.safetensors", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "README.md"),
        *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    }
    again = export(f"--workdir={run}", f"--out={tmp_path / 'again'}")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith(f"error: {tmp_path / 'again'} exists: expected a new folder")
    assert again.stderr.count("\n") == 1


def test_a_stranger_without_our_code_or_network_computes_what_we_do(run, exported, photo, tmp_path):
    captions = ["a red circle left of a blue square", "A green triangle!"]
    clean = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-I", "-W", "error", "-c", STRANGER, str(exported), str(photo), *captions]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {name: np.array(value) for name, value in json.loads(done.stdout).items()}

    saves = Checkpoints(run, read_only=True)
    cfg = saves.config(2)
    params = torch_export.restore(saves, 2)
    ids, mask = text.load(cfg.data, cfg.text).encode(captions)
    images = np.stack([image.eval_view(photo.read_bytes(), cfg.vision.image_px)] * 2)

    def compute(model):
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=jnp.asarray(mask))
        return model.unimodal_image(lower.image), model.unimodal_text(lower.text, mask), model.fused(lower)

    image_embeds, text_embeds, fused = tiny_model.apply(cfg, params, compute)
    np.testing.assert_array_equal(found["input_ids"], ids)
    np.testing.assert_array_equal(found["attention_mask"], mask)
    for name, expected in {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "fused_image_embeds": fused.image,
        "fused_text_embeds": fused.text,
    }.items():
        assert np.abs(found[name] - expected).max() <= 1e-5, name
    assert np.abs(found["match_logits"] - fused.itm_logit).max() <= 1e-4
    scale = np.exp(min(float(params["heads"]["log_scale"]), np.log(cfg.bridge.logit_scale_max)))
    weight = cfg.evals["retrieval"].rerank_weight * scale
    scores = fused.itm_logit + weight * (image_embeds * text_embeds).sum(axis=1)
    assert np.abs(np.diag(found["scores"]) - scores).max() <= 1e-4


def test_an_export_names_no_place_of_the_machine(run, exported):
    cfg = Checkpoints(run, read_only=True).config(2)
    places = {cfg.data.data_dir, cfg.cache_dir, str(run), str(run.parent), str(ROOT), str(Path.home())}
    for name, content in contents(exported).items():
        assert not [place for place in places if place.encode() in content], name


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("/home/me/towers/vit", "vit"),
        ("~/vit", "vit"),
        ("../towers/vit", "vit"),
        ("data/towers/vit", "vit"),
        ("", ""),
    ],
)
def test_a_tower_keeps_its_hub_id_or_its_name(run, source, kept):
    cfg = Checkpoints(run, read_only=True).config(2)
    cfg = dataclasses.replace(cfg, vision=dataclasses.replace(cfg.vision, pretrained=source))
    assert torch_export.without_places(cfg).vision.pretrained == kept


def test_every_way_to_give_a_picture(photo):
    square = BridgeImageProcessor(32).square
    expected = image.eval_view(photo.read_bytes(), 32)
    for picture in (str(photo), photo, photo.read_bytes()):
        np.testing.assert_array_equal(square(picture), expected)
    squashed = BridgeImageProcessor(32, squash=True).square(photo)
    np.testing.assert_array_equal(squashed, image.eval_view(photo.read_bytes(), 32, squash=True))
    assert not np.array_equal(squashed, expected)
    with Image.open(photo) as opened:
        np.testing.assert_array_equal(square(opened), expected)
        assert opened.size == (650, 450)  # left as it was
        np.testing.assert_array_equal(square(opened), expected)
        decoded = square(opened.convert("RGB"))  # from the full resolution: near, and not the same
    assert 0 < np.abs(decoded.astype(int) - expected).mean() < 20
    png = photo.with_suffix(".png")
    Image.fromarray(decoded).save(png)
    np.testing.assert_array_equal(square(decoded), image.eval_view(png.read_bytes(), 32))
    Image.fromarray(decoded).save(png, icc_profile=profiles.exchanged())
    np.testing.assert_array_equal(square(png), image.eval_view(png.read_bytes(), 32))
    assert not np.array_equal(square(png), square(decoded))


def test_towers_can_be_lifted_out(exported):
    """Hugging Face's own classes read them from the folder and compute the same states."""
    whole = BridgeModel.from_pretrained(exported).eval()
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(5, 60, (2, 9))
    vit, report = transformers.ViTModel.from_pretrained(
        exported, add_pooling_layer=False, key_mapping={r"^vision_model\.": ""}, output_loading_info=True
    )
    assert not report["missing_keys"]
    bert, report = transformers.BertModel.from_pretrained(
        exported, add_pooling_layer=False, key_mapping={r"^text_model\.": ""}, output_loading_info=True
    )
    assert not report["missing_keys"]
    with torch.no_grad():
        tower = whole.vision_model
        ours = tower.finish(tower.blocks(tower.embed(pixels), 0, 2))
        torch.testing.assert_close(vit(pixels).last_hidden_state, ours, atol=1e-5, rtol=0)
        ours = whole.text_model.blocks(whole.text_model.embed(ids), None, 0, 2)
        torch.testing.assert_close(bert(ids).last_hidden_state, ours, atol=1e-5, rtol=0)


def test_dropout_runs_in_training_alone(exported):
    model, pixels = BridgeModel.from_pretrained(exported), torch.randn(1, 3, 32, 32)
    model.eval()
    assert torch.equal(model.get_image_features(pixels), model.get_image_features(pixels))
    model.train()
    assert not torch.equal(model.get_image_features(pixels), model.get_image_features(pixels))


def test_the_card_says_what_the_run_says(run, exported, tmp_path):
    card, cfg = (exported / "README.md").read_text(), Checkpoints(run, read_only=True).config(2)
    assert "| data | shapes, split `train`; chosen on `val` |" in card
    assert "| checkpoint | step 2, stage `align` of `stabilise`, `align`, `task` |" in card
    # The last table of a run is of its best checkpoint, although it is logged at the last step.
    assert "| val | image_to_text | rerank | 71.4 [66.9, 76.0] | 90.0 | 95.0 | 1 |" in card
    assert "R@k is the percent of queries with a right answer among the best k of the whole split" in card
    assert f"in `rerank` the bridge then orders the best {cfg.evals['retrieval'].rerank_top_k} anew" in card
    assert "- The image tower was trained from random weights." in card
    torch_export.export(Checkpoints(run, read_only=True), 4, tmp_path / "last")
    assert "This checkpoint was not scored." in (tmp_path / "last" / "README.md").read_text()


def test_the_card_says_what_a_query_costs(run, exported):
    card, cfg = (exported / "README.md").read_text(), Checkpoints(run, read_only=True).config(2)
    number = r"([\d.e+-]+)"
    (text,) = re.findall(rf"To embed a text takes {number} GFLOP; to embed a photo", card)
    depth, width, mlp, tokens = cfg.text.depth, cfg.text.width, cfg.text.mlp_width, cfg.text.length
    blocks = depth * (2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width)
    assert float(text) == pytest.approx((blocks + 2 * width * cfg.bridge.embed_width) / 1e9, rel=5e-3)
    best, pair, total = re.findall(rf"anew, by the bridge, takes (\d+) x {number} = {number} GFLOP\nmore", card)[0]
    assert int(best) == cfg.evals["retrieval"].rerank_top_k
    assert float(total) == pytest.approx(int(best) * float(pair), rel=1e-2)
    sides = ((5, cfg.vision), (tokens, cfg.text))  # 4 patches and the class
    block = sum(2 * n * (4 * tower.width**2 + 2 * tower.width * tower.mlp_width) for n, tower in sides)
    assert float(pair) > block / 1e9  # of both sides, a block above the bridge at least
    assert f"are kept, {5 * cfg.vision.width * 2 / 1e3:.3g} kB a photo" in card


def test_the_card_of_a_run_that_was_stopped(run, tmp_path):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "checkpoints").symlink_to(run / "checkpoints")
    held = {key.removeprefix("final/val/rerank/"): value for key, value in entries[1].items()}
    entries[0] |= {"eval/unimodal/rsum": 90.0} | {
        f"eval/unimodal/{key}": value for key, value in held.items() if "/" in key
    }
    (stopped / "metrics.jsonl").write_text(json.dumps(entries[0]) + "\n")
    torch_export.export(Checkpoints(stopped, read_only=True), 2, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| val | text_to_image | unimodal | 35.7 [33.5, 38.0] | 45.0 | 47.5 | 0.5 |" in card
    assert "chosen on `val`, so its numbers there flatter it" in card


def test_the_licence_is_the_towers_own(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert hf_import.licence("owner/name") == ""
    folder = tmp_path / "models--owner--name/snapshots/0123"
    folder.mkdir(parents=True)
    (tmp_path / "models--owner--name/refs").mkdir()
    (tmp_path / "models--owner--name/refs/main").write_text("0123")
    assert hf_import.licence(str(folder)) == ""
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# A tower\nlicense: mit\n")
    assert hf_import.licence(str(folder)) == hf_import.licence("owner/name") == "apache-2.0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vocabulary": "/no/vocab.txt"}, "no file /no/vocab.txt"),
        ({"out": "file/out"}, "cannot be written: [Errno 20] Not a directory"),
    ],
)
def test_an_export_that_fails_leaves_nothing(run, tmp_path, arguments, says):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / arguments.pop("out", "out")
    with pytest.raises(ConfigError, match=re.escape(says)):
        torch_export.export(Checkpoints(run, read_only=True), 2, out, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_stop_in_the_middle_leaves_nothing(tmp_path):
    def stopped():
        with torch_export.new_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())
