"""An exported folder in sentence-transformers, MTEB and transformers' pipelines: a stranger's program, no network.

The program runs the scripts of docs/export.md as they are written, and says what it computed as JSON.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw

from bridge_jax.data import image, text
from bridge_jax.interop import torch_export
from bridge_jax.interop.torch_model.configuration_bridge import BridgeConfig
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta
from tests import tiny as tiny_model
from tests.interop.stranger import ALONE

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ("one.jpg", "two.jpg", "three.jpg", "four.jpg")
CAPTIONS = (
    "a red circle left of a blue square",
    "a green triangle",
    "a blue circle above a red triangle",
    "a yellow square",
)

OPENING = (
    ALONE
    + """
import contextlib, io, json, os
photos, captions, scripts = json.loads(sys.argv[1])
found = {}
def error(function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
"""
)

SENTENCE_TRANSFORMERS = """
from PIL import Image
with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(scripts["sentence_transformers"])
found["printed"] = printed.getvalue().split()
found["photos"] = encoder.encode(photos).tolist()
found["opened"] = encoder.encode([Image.open(photo) for photo in photos]).tolist()
found["captions"] = encoder.encode(captions).tolist()
found["width"] = encoder.get_embedding_dimension()
pairs = [(caption, Image.open(photo)) for caption in captions for photo in photos]
found["scores"] = reranker.predict(pairs).tolist()
found["swapped"] = reranker.predict([(photo, caption) for caption, photo in pairs]).tolist()
found["rank"] = reranker.rank(captions[0], photos, top_k=3)
found["rank_texts"] = reranker.rank(photos[0], captions)
prefixed = reranker.predict([("left of a blue square", photos[0])], prompt="a red circle ")
found["prompt"] = float(prefixed[0])
found["refused"] = {
    place: [error(encoder.encode, place), error(reranker.predict, [("a dog", place)])]
    for place in ("https://example.org/a.jpg", "http://example.org/a", "data:image/png;base64,AAAA", "gone.jpg")
}
found["two_texts"] = error(reranker.predict, [("a dog", "a cat")])
found["not_a_text"] = error(encoder.encode, [("a dog", "a cat")])
found["mixed"] = error(encoder.encode, [photos[0], captions[0]])
found["no_bridge"] = error(lambda: CrossEncoder("no_bridge", trust_remote_code=True))
found["no_bridge_width"] = len(SentenceTransformer("no_bridge", trust_remote_code=True).encode("a red circle"))
encoder.save_pretrained("saved")
reranker.save_pretrained("saved_reranker")
saved = CrossEncoder("saved", trust_remote_code=True)
found["saved"] = [saved.predict(pairs).tolist()]
saved = SentenceTransformer("saved_reranker", trust_remote_code=True)
found["saved"] += [saved.encode(photos).tolist(), saved.encode(captions).tolist()]

from transformers import pipeline
classifier = pipeline("zero-shot-image-classification", model="exported", trust_remote_code=True)
found["classes"] = classifier("four.png", candidate_labels=captions, hypothesis_template="{}")
extractor = pipeline("image-feature-extraction", model="exported", trust_remote_code=True)
found["states"], found["pooled"] = extractor("four.png"), extractor("four.png", pool=True)
"""

# A task of drawn pictures: caption i is about photo i.
MTEB = """
import datasets, mteb
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image
unknown = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect",
           "sample_creation", "bibtex_citation")
class Drawn(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="DrawnT2IRetrieval", description="Find the drawing.", dataset={"path": "local", "revision": "1"},
        type="Any2AnyRetrieval", category="t2i", modalities=["text", "image"], eval_splits=["test"],
        eval_langs=["eng-Latn"], main_score="ndcg_at_10", **dict.fromkeys(unknown))
    def load_data(self, **settings):
        keys = [str(i) for i in range(len(photos))]
        self.dataset = {"default": {"test": {
            "corpus": datasets.Dataset.from_dict({"id": keys, "image": [Image.open(photo) for photo in photos]}),
            "queries": datasets.Dataset.from_dict({"id": keys, "text": captions}),
            "relevant_docs": {key: {key: 1} for key in keys}, "top_ranked": None}}}
        self.data_loaded = True
published, mteb.get_task = mteb.get_task("Flickr30kT2IRetrieval"), lambda name: Drawn()
assert published.metadata.category == Drawn.metadata.category
exec(scripts["mteb"])
decoded = [Image.open(photo).convert("RGB") for photo in photos]
found["decoded"] = encoder.model.encode(decoded).tolist()
pairs = [(caption, photo) for caption in captions for photo in decoded]
found["decoded_scores"] = reranker.model.predict(pairs).tolist()
print(json.dumps(found))
"""


def scripts() -> dict[str, str]:
    """Return the scripts of the page by the library that they import first."""
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return {re.match(r"(?:from|import) (\w+)", block)[1]: block for block in blocks}


@pytest.fixture(scope="module")
def folder(run, exported, tmp_path_factory) -> Path:
    """A folder with the exported model, one without a bridge, and photos."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "exported").symlink_to(exported)
    _without_bridge(folder, Checkpoints(run, read_only=True).meta(2))
    colours = ("red", "green", "blue", "yellow")
    for i, name in enumerate(PHOTOS):
        drawn = Image.new("RGB", (200 + 40 * i, 260), "white")
        ImageDraw.Draw(drawn).ellipse((30 * i, 40, 30 * i + 120, 40 + 50 * (i + 1)), fill=colours[i])
        drawn.save(folder / name)
    drawn.resize((32, 32)).save(folder / "four.png")
    return folder


def _without_bridge(folder: Path, meta: Meta) -> None:
    """Export a model without a bridge, random weights, to `folder`/no_bridge."""
    cfg = tiny_model.config(bridge=dict(design="none", layers=0), stage=dict(losses=("itc",)))
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle")))
    tokenizer = text.Tokenizer(vocabulary, cfg.text.length)
    torch_export.write(folder / "no_bridge", cfg, tiny_model.params(cfg), meta, tokenizer, "")


@pytest.fixture(scope="module")
def found(folder) -> dict:
    """Run the program in the folder without our code, and return what it found. Its imports take 12 s: it runs once."""
    clean = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    program, given = OPENING + SENTENCE_TRANSFORMERS + MTEB, json.dumps([PHOTOS, CAPTIONS, scripts()])
    command = [sys.executable, "-I", "-W", "error", "-c", program, given]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ours(run, folder) -> dict[str, np.ndarray]:
    """What JAX computes of every photo with every caption: embeddings, and scores as tools.search has them."""
    saves = Checkpoints(run, read_only=True)
    cfg, params = saves.config(2), torch_export.restore(saves, 2)
    ids, mask = text.load(cfg.data, cfg.text).encode(list(CAPTIONS))
    views = [image.eval_view((folder / name).read_bytes(), cfg.vision.image_px) for name in PHOTOS]
    captions, photos = np.divmod(np.arange(len(CAPTIONS) * len(PHOTOS)), len(PHOTOS))
    pairs_ids, pairs_mask, pairs_views = ids[captions], mask[captions], np.stack(views)[photos]

    def compute(model):
        lower = Lower(
            image=model.lower_image(pairs_views),
            text=model.lower_text(pairs_ids, pairs_mask),
            text_mask=jnp.asarray(pairs_mask),
        )
        alone = model.unimodal_image(lower.image), model.unimodal_text(lower.text, pairs_mask)
        return *alone, model.fused(lower).itm_logit

    photo, caption, logits = (np.asarray(each) for each in tiny_model.apply(cfg, params, compute))
    scale = np.exp(min(float(params["heads"]["log_scale"]), np.log(cfg.bridge.logit_scale_max)))
    weight = cfg.evals["retrieval"].rerank_weight
    assert weight > 0
    scores = logits + weight * scale * (photo * caption).sum(axis=1)
    return {"photos": photo[: len(PHOTOS)], "captions": caption[:: len(PHOTOS)], "scores": scores}


def near(found, expected, tolerance: float = 1e-5) -> None:
    assert np.abs(np.asarray(found) - expected).max() <= tolerance


def test_embeddings_and_scores_are_ours(found, ours):
    near(found["photos"], ours["photos"])
    near(found["opened"], ours["photos"])
    near(found["captions"], ours["captions"])
    assert found["width"] == ours["photos"].shape[1]
    size = np.abs(ours["scores"]).max()
    near(found["scores"], ours["scores"], 1e-5 * size)
    near(found["swapped"], ours["scores"], 1e-5 * size)
    near(found["prompt"], ours["scores"][0], 1e-5 * size)


def test_rank_is_in_the_order_of_our_scores(found, ours):
    scores = ours["scores"].reshape(len(CAPTIONS), len(PHOTOS))
    assert [entry["corpus_id"] for entry in found["rank"]] == list(np.argsort(-scores[0]))[:3]
    assert [entry["corpus_id"] for entry in found["rank_texts"]] == list(np.argsort(-scores[:, 0]))


def test_the_script_of_the_page_reranks(found):
    assert len(scripts()["sentence_transformers"].splitlines()) < 15
    names, scores = found["printed"][::2], [float(score) for score in found["printed"][1::2]]
    assert len(names) == 2 < len(PHOTOS)
    assert set(names) < set(PHOTOS)
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("place", ["https://example.org/a.jpg", "http://example.org/a", "data:image/png;base64,AAAA"])
def test_a_url_is_refused_in_one_line(found, place):
    for says in found["refused"][place]:
        assert says.startswith(f"{place!r} is a URL: expected ")
        assert says.endswith("download it first")
        assert "\n" not in says


def test_a_wrong_path_is_no_caption(found):
    for says in found["refused"]["gone.jpg"]:
        assert says.startswith("'gone.jpg' names a picture but came as a text: no such file")
    assert found["two_texts"] == "a pair of text and text: expected one picture and one text"
    assert found["not_a_text"] == "a text is tuple: expected a string"
    assert "mixes multiple modalities (image, text)" in found["mixed"]


def test_a_model_without_a_bridge_embeds_and_scores_no_pairs(found):
    assert found["no_bridge_width"] == 16
    assert found["no_bridge"].startswith("this checkpoint has no bridge (design none) and scores no pairs")


def test_what_either_class_saves_the_other_loads(found, ours):
    scores, photos, captions = found["saved"]
    near(scores, ours["scores"], 1e-5 * np.abs(ours["scores"]).max())
    near(photos, ours["photos"])
    near(captions, ours["captions"])


def test_a_checkpoint_that_answers_keeps_its_answers_as_a_reranker():
    """sentence-transformers says that there is one label, and `id2label` holds the answers."""
    config = BridgeConfig(id2label={0: "yes", 1: "no", 2: "red"})
    config.num_labels = 1
    assert config.num_labels == 1
    assert config.id2label == {0: "yes", 1: "no", 2: "red"}


def test_pipelines_see_a_picture_as_we_do(found, run, folder, ours):
    saves = Checkpoints(run, read_only=True)
    cfg, params = saves.config(2), torch_export.restore(saves, 2)
    view = image.eval_view((folder / "four.png").read_bytes(), cfg.vision.image_px)[None]
    embed = tiny_model.apply(cfg, params, lambda model: model.unimodal_image(model.lower_image(view)))
    assert np.shape(found["states"]) == (1, 1 + 4, cfg.vision.width)
    near(found["pooled"], np.asarray(embed))
    scale = np.exp(min(float(params["heads"]["log_scale"]), np.log(cfg.bridge.logit_scale_max)))
    logits = scale * np.asarray(embed)[0] @ ours["captions"].T
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert {entry["label"] for entry in found["classes"]} == set(CAPTIONS)
    for entry in found["classes"]:
        assert abs(entry["score"] - chances[CAPTIONS.index(entry["label"])]) <= 1e-4


def test_mteb_scores_the_encoder_and_the_reranker(found, folder):
    results = {path.parts[-3]: json.loads(path.read_text()) for path in folder.glob("results/**/Drawn*.json")}
    assert set(results) == {"me__bridge", "me__bridge-reranked"}
    cosines = np.array(found["captions"]) @ np.array(found["decoded"]).T
    scores = np.array(found["decoded_scores"]).reshape(cosines.shape)
    candidates = np.argsort(-cosines, axis=1)[:, :20]  # all: there are fewer
    reranked = np.take_along_axis(candidates, np.argsort(-np.take_along_axis(scores, candidates, 1), axis=1), 1)
    for name, order in {"me__bridge": candidates, "me__bridge-reranked": reranked}.items():
        assert results[name]["task_name"] == "DrawnT2IRetrieval"
        (row,) = results[name]["scores"]["test"]
        rank = np.argmax(order == np.arange(len(order))[:, None], axis=1)
        for k in (1, 3):
            assert row[f"recall_at_{k}"] == pytest.approx((rank < k).mean(), abs=1e-4)
