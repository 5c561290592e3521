"""The exported PyTorch model against ours, in float32 on real photos and captions: numbers, gradients, ranks.

The grid runs small towers with random weights; the last test the pretrained ones.
"""

import copy
import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from bridge_jax import config, paths
from bridge_jax.config import objectives
from bridge_jax.config.as_json import as_dict
from bridge_jax.config.checks import DESIGNS, PLACEMENTS
from bridge_jax.config.migrations import SCHEMA
from bridge_jax.data import image
from bridge_jax.data.text import Tokenizer
from bridge_jax.interop import hf_import, names, torch_export, torch_import
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel
from bridge_jax.interop.torch_model.processing_bridge import BridgeImageProcessor
from bridge_jax.models.towers import normalise
from bridge_jax.types import Batch, Lower
from bridge_jax.workdir.meta import Meta
from configs import flickr8k
from tests import tiny

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
PAIRS = 6


def small(design="cross", placement="top", *, vision=(), text=(), **sections):
    """Return a config of small towers: 5 and 4 blocks, 32 px in patches of 8, a stored grid of another size."""
    sections.setdefault("stage", dict(losses=("itc",)))
    return tiny.config(
        bridge=dict(design=design, placement=placement, layers=0 if design == "none" else 2),
        vision=dict(depth=5, image_px=32, patch_px=8, position_grid=3, mlp_width=64) | dict(vision),
        text=dict(depth=4, vocab_size=30522, length=24, max_positions=28) | dict(text),
        **sections,
    )


@functools.cache
def real_pairs(shared: Path, image_px: int, length: int) -> tuple[Batch, list[bytes]]:
    """Return PAIRS photos of Flickr8k with a caption each, as our pipeline shows them, and the photos' files."""
    folder = shared / "data/flickr8k"
    entries = json.loads((folder / "dataset_flickr8k.json").read_text())["images"]
    entries = [entry for entry in entries if entry["split"] == "val"][:PAIRS]
    files = [(folder / "images" / entry["filename"]).read_bytes() for entry in entries]
    tokenizer = Tokenizer(shared / "weights/minilm_l6/vocab.txt", length)
    ids, mask = tokenizer.encode([entry["sentences"][0]["raw"] for entry in entries])
    images = np.stack([image.eval_view(file, image_px) for file in files])
    assert 0 < mask.mean() < 1
    return Batch(image_ids=np.arange(PAIRS), text_mask=mask, images=images, ids=ids), files


def pairs_of(cfg: config.Config, shared: Path) -> tuple[Batch, list[bytes]]:
    return real_pairs(shared, cfg.vision.image_px, cfg.text.length)


def exported(cfg: config.Config, params, folder: Path, answers: tuple[str, ...] = ()) -> BridgeModel:
    """Return the model that PyTorch reads from an export of `params`."""
    meta = Meta(schema=SCHEMA, step=1, stage="train", config=as_dict(cfg), answers=answers)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
    torch_export.write(folder / "model", cfg, params, meta, Tokenizer(vocabulary, cfg.text.length), "")
    model, info = BridgeModel.from_pretrained(folder / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def torch_inputs(cfg: config.Config, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = np.array(normalise(batch.images, cfg)).transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.text_mask)


def ours(model, batch: Batch):
    """Return both embeddings alone, and what the fused pass gives."""
    lower = Lower(
        image=model.lower_image(batch.images),
        text=model.lower_text(batch.ids, batch.text_mask),
        text_mask=jnp.asarray(batch.text_mask),
    )
    alone = model.unimodal_image(lower.image), model.unimodal_text(lower.text, lower.text_mask)
    return *alone, model.fused(lower)


def difference(ours, theirs) -> float:
    assert ours.shape == tuple(theirs.shape)
    return float(np.abs(np.asarray(ours) - theirs.numpy()).max())


def assert_equal(cfg, params, batch, model):
    """Hold embeddings to 1e-5 and logits to 1e-4."""
    image_embeds, text_embeds, fused = tiny.apply(cfg, params, ours, batch)
    with torch.no_grad():
        found = model(*torch_inputs(cfg, batch))
    pairs = {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "fused_image_embeds": fused.image,
        "fused_text_embeds": fused.text,
    }
    for name, expected in pairs.items():
        assert difference(expected, found[name]) <= 1e-5, name
    assert difference(fused.itm_logit, found.match_logits) <= 1e-4
    assert cfg.bridge.design == "none" or difference(image_embeds, found.fused_image_embeds) > 1e-2


@pytest.mark.parametrize(
    ("design", "placement"),
    [("none", "top"), *((d, p) for d in DESIGNS if d != "none" for p in PLACEMENTS)],
)
def test_every_design_and_placement_is_the_same_model(shared, tmp_path, design, placement):
    cfg = small(design, placement, vision=dict(layer_scale=placement in ("top", "after")))  # a DINOv2 has that
    params = tiny.params(cfg)
    assert_equal(cfg, params, pairs_of(cfg, shared)[0], exported(cfg, params, tmp_path))


TOWERS = {
    "xlm_roberta": dict(text=dict(tower="xlm_roberta", token_types=1)),
    "clip": dict(vision=dict(tower="clip"), text=dict(tower="open_clip", token_types=0)),
    "siglip": dict(vision=dict(tower="siglip"), text=dict(tower="siglip", token_types=0)),
    "dinov3": dict(vision=dict(tower="dinov3", layer_scale=True)),
    "modernbert": dict(text=dict(tower="modernbert", token_types=0)),
    "dinov2_with_registers_and_siglip_padded": dict(
        vision=dict(tower="dinov2_with_registers", layer_scale=True),
        text=dict(tower="siglip_padded", token_types=0, max_positions=24),
    ),
    "tipsv2": dict(vision=dict(tower="tipsv2", layer_scale=True), text=dict(tower="tipsv2", token_types=0)),
}


@pytest.mark.parametrize(
    ("name", "placement"),
    [*((name, "top") for name in TOWERS), *((name, "after") for name in list(TOWERS)[:5])],  # five are enough for both
)
def test_every_tower_is_the_same_model_and_comes_back(shared, tmp_path, name, placement):
    cfg = small("cross", placement, **TOWERS[name])
    params = tiny.params(cfg)
    assert_equal(cfg, params, pairs_of(cfg, shared)[0], exported(cfg, params, tmp_path))
    _, back_cfg, back = torch_import.read(tmp_path / "model")
    assert back_cfg == torch_export.without_places(cfg)
    back, given = paths.flatten(back), paths.flatten(params)
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[path], given[path]) for path in given)


@pytest.fixture(scope="module")
def with_heads(shared, tmp_path_factory):
    """A config with every head, its parameters, real pairs, and the exported model."""
    cfg = small(stage=dict(losses=("itc", "mlm", "mim")), evals=dict(retrieval=dict(rerank_weight=0.5)))
    params = tiny.params(cfg)
    return cfg, params, pairs_of(cfg, shared)[0], exported(cfg, params, tmp_path_factory.mktemp("with_heads"))


def test_masked_heads(with_heads):
    cfg, params, batch, model = with_heads
    hidden = np.arange(16) % 3 == np.arange(PAIRS)[:, None] % 3

    def predict(bridge):
        lower = Lower(
            image=bridge.lower_image(batch.images, hidden),
            text=bridge.lower_text(batch.ids, batch.text_mask),
            text_mask=jnp.asarray(batch.text_mask),
        )
        return bridge.heads.by_loss["mim"](bridge.fused(lower).image_states[:, 1:])

    words = tiny.apply(cfg, params, lambda bridge: bridge.heads.by_loss["mlm"](ours(bridge, batch)[2].text_states))
    inputs = torch_inputs(cfg, batch)
    with torch.no_grad():
        assert difference(words, model.masked_token_logits(*inputs)) <= 1e-4
        patches = model.masked_patch_prediction(*inputs, torch.from_numpy(hidden))
    assert difference(tiny.apply(cfg, params, predict), patches) <= 1e-4


def test_heads_that_the_checkpoint_lacks_say_so(shared, tmp_path):
    cfg = small()
    model = exported(cfg, tiny.params(cfg), tmp_path)
    inputs = torch_inputs(cfg, pairs_of(cfg, shared)[0])
    with pytest.raises(ValueError, match="trained without the mlm loss"):
        model.masked_token_logits(*inputs)
    with pytest.raises(ValueError, match="trained without the mim loss"):
        model.masked_patch_prediction(*inputs, torch.ones(PAIRS, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="trained without the vqa loss"):
        model.answer(*inputs)
    with pytest.raises(ValueError, match="trained without the sigmoid loss"):
        model.logit_bias()
    with pytest.raises(ValueError, match=r"pixel_values: expected \[B,3,32,32\], got \[6, 3, 40, 40\]"):
        model.get_image_features(torch.zeros(6, 3, 40, 40))
    with pytest.raises(ValueError, match="input_ids: at most 24 tokens, got 25"):
        model.get_text_features(torch.ones(1, 25, dtype=torch.long))


def test_match_scores_every_pair_as_our_evaluation_does(with_heads):
    """The twin: both towers run anew for every pair, and fused + weight x scale x cosine."""
    cfg, params, batch, model = with_heads
    pixels, ids, mask = torch_inputs(cfg, batch)
    with torch.no_grad():
        found = model.match(pixels[:2], ids[:3], mask[:3], pairs_at_once=4)
    scale = float(np.exp(min(float(params["heads"]["log_scale"]), np.log(cfg.bridge.logit_scale_max))))
    assert float(model.logit_scale().detach()) == pytest.approx(scale, rel=1e-6)
    images, texts = np.repeat(range(2), 3), np.tile(range(3), 2)
    pairs = dataclasses.replace(tiny.take(batch, texts), images=batch.images[images])
    image_embeds, text_embeds, fused = tiny.apply(cfg, params, ours, pairs)
    cosines = (image_embeds * text_embeds).sum(axis=1)
    scores = fused.itm_logit + cfg.evals["retrieval"].rerank_weight * scale * cosines
    assert difference(fused.itm_logit, found.logits.flatten()) <= 1e-4
    assert difference(scores, found.scores.flatten()) <= 1e-4


def test_padding_and_its_absence_change_nothing(with_heads):
    cfg, _, batch, model = with_heads
    pixels, ids, mask = torch_inputs(cfg, batch)
    short = mask.sum(1) < cfg.text.length
    pixels, ids, mask = pixels[short], ids[short], mask[short]
    longest = int(mask.sum(1).max())
    assert len(ids) > 1
    with torch.no_grad():
        padded, cut = model(pixels, ids, mask), model(pixels, ids[:, :longest], mask[:, :longest])
        other = model(pixels, torch.where(mask, ids, 7), mask)
    for name in ("text_embeds", "fused_image_embeds", "fused_text_embeds", "match_logits"):
        assert difference(padded[name], cut[name]) <= 1e-5
        assert torch.equal(padded[name], other[name])


def test_half_precision_is_near(with_heads):
    cfg, _, batch, model = with_heads
    pixels, ids, mask = torch_inputs(cfg, batch)
    half = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        expected = model(pixels, ids, mask)
        found = half(pixels.to(torch.bfloat16), ids, mask)
        assert half.match(pixels.to(torch.bfloat16), ids, mask).scores.shape == (PAIRS, PAIRS)
    for name in ("image_embeds", "text_embeds", "fused_image_embeds", "fused_text_embeds"):
        assert found[name].dtype == torch.float32
        assert (found[name] * expected[name]).sum(1).min() > 0.99


def test_gradients_of_the_contrastive_loss(with_heads):
    cfg, params, batch, model = with_heads

    def objective(params):
        found = tiny.outputs(cfg, params, batch, passes=("unimodal",))
        return objectives.bind("itc", cfg.losses["itc"])(found, batch).mean

    expected_loss, expected = jax.jit(jax.value_and_grad(objective))(params)
    pixels, ids, mask = torch_inputs(cfg, batch)
    model.zero_grad()
    logits = model.logit_scale() * model.get_text_features(ids, mask) @ model.get_image_features(pixels).T
    target = torch.arange(PAIRS)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected_loss), rel=1e-5)
    expected = paths.flatten(expected)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    moved = 0
    for entry in names.whole(cfg.vision, cfg.text, {path: leaf.shape for path, leaf in expected.items()}):
        gradient, want = gradients[entry.name], entry.to_stored(np.asarray(expected[entry.path]))
        moved += bool(np.abs(want).max() > 1e-3)
        got = np.zeros_like(want) if gradient is None else gradient.numpy()
        assert np.abs(got - want).max() <= 1e-4, entry.path
    assert moved > 100


def test_the_processor_makes_our_pixels_bit_for_bit(shared):
    cfg = small()
    batch, files = pairs_of(cfg, shared)
    processor = BridgeImageProcessor(32, cfg.vision.mean, cfg.vision.std)
    assert all(np.array_equal(processor.square(file), view) for file, view in zip(files, batch.images, strict=True))
    pixels = processor(files, return_tensors="pt").pixel_values
    assert torch.equal(pixels, torch_inputs(cfg, batch)[0])


def test_the_real_towers_on_photos_and_captions(shared, tmp_path):
    settings = flickr8k.get_config()
    settings.vision.pretrained, settings.text.pretrained = "", ""
    cfg = config.parse(settings)
    params = {
        **tiny.params(cfg),
        "vision": hf_import.vision_params(shared / "weights/dinov2_small", cfg.vision),
        "text": hf_import.text_params(shared / "weights/minilm_l6", cfg.text),
    }
    assert_equal(cfg, params, pairs_of(cfg, shared)[0], exported(cfg, params, tmp_path))
