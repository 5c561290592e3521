"""A tiny experiment for the tests: unequal towers, no dropout, every parameter drawn at random.

from tests import tiny
cfg = tiny.config(bridge=dict(design="pooled"), stage=dict(losses=("itc",)))
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax import paths
from bridge_jax.config import Config, objectives, parse
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward
from bridge_jax.step.params import param_shapes
from bridge_jax.types import Batch, Lower, Outputs, Params
from configs import common

LOSSES = {
    "itc": {"chunk_columns": 0},
    "fused_itc": {"form": "joint"},
    "itm": {},
    "cycle": {},
    "mlm": {"mask_fraction": 0.15},
    "mim": {"target": "pixels", "mask_fraction": 0.4},
}
OTHERS = {
    "sigmoid": {"chunk_columns": 0},
    "token_itc": {"group": 0},
    "distil": {},
    "vqa": {"answers": 5},
    "vqa_generative": {},
    "caption": {"label_smoothing": 0.1},
    "nlvr2": {"pictures": 2},
    "snli_ve": {},
}  # each in a stage of its own


def config(*, stage: dict | None = None, **sections: Any) -> Config:
    """Return the tiny config, with `sections` (bridge=dict(...), seed=1, ...) and its only stage, `train`, changed.

    The config has the losses of the stage, each of weight 1: by default all of LOSSES that the design can have.
    """
    config = common.base()
    config.vision = common.vit("tiny", patch_px=4, image_px=8, depth=4, width=32, heads=4, mlp_width=40)
    config.text = common.bert("tiny", length=6, depth=3, width=16, heads=2, mlp_width=24, vocab_size=20, dropout=0.0)
    config.text.max_positions = 8
    config.bridge.update(layers=2, shared_width=24, heads=2, embed_width=16, attention_dropout=0.0, output_dropout=0.0)
    attends = sections.get("bridge", {}).get("design") not in ("none", "pooled")
    names = tuple(name for name in LOSSES if attends or name != "cycle")
    settings = dict(steps=10, batch_size=4, losses=names, train=common.EVERYTHING, lr_factors=((".*", 1.0),))
    config.stages = {"train": common.stage(**settings)}
    config.stage_order = ("train",)
    config.stages.train.update(stage or {})
    config.losses = {name: {"weight": 1.0, **(LOSSES | OTHERS)[name]} for name in config.stages.train.losses}
    config.vision.mask_token = "mim" in config.losses
    if "vqa_generative" in config.losses:
        common.decoder(config, "tiny", layers=2, width=16, heads=2, mlp_width=24, dropout=0.0)
    if "caption" in config.losses:
        common.caption_decoder(config, "tiny", layers=2, width=16, heads=2, mlp_width=24, dropout=0.0)
    for name in config.losses:
        if (evaluator := objectives.needs(name).evaluator) not in config.evals:
            config.evals[evaluator] = common.asking()
    for name, value in sections.items():
        if isinstance(value, dict):
            config[name].update(value)
        else:
            config[name] = value
    return parse(config)


def params(cfg: Config, seed: int = 0) -> Params:
    """Return parameters that are ALL random, even those that start at zero or one; scales lie around one."""
    draw = np.random.default_rng(seed)
    drawn = {}
    for path, leaf in paths.flatten(param_shapes(cfg)).items():
        spread = 1 / np.sqrt(leaf.shape[0]) if path.endswith("/kernel") else 0.3
        value = draw.normal(scale=spread, size=leaf.shape) + path.endswith("scale")
        drawn[path] = jnp.asarray(value, leaf.dtype)
    return paths.unflatten(drawn)


def batch(cfg: Config, B: int = 4, seed: int = 0) -> Batch:
    """Return B pairs with every field but the lower states. Row 0 has no padding, all others have some."""
    draw = np.random.default_rng(seed)
    T, side = cfg.text.length, cfg.vision.image_px
    pictures = objectives.pictures(cfg, cfg.stages["train"])
    shape = (B, pictures, side, side, 3) if pictures > 1 else (B, side, side, 3)
    patches = (side // cfg.vision.patch_px) ** 2
    lengths = draw.integers(3, T, B)
    lengths[0] = T
    text_mask = np.arange(T) < lengths[:, None]
    ids = np.where(text_mask, draw.integers(3, cfg.text.vocab_size, (B, T)), 0).astype(np.int32)
    masked_text = text_mask & (np.arange(T) == draw.integers(1, 3, B)[:, None])
    common = dict(
        image_ids=np.arange(B, dtype=np.int32),
        text_mask=text_mask,
        images=draw.integers(0, 256, shape).astype(np.uint8),
        ids=ids,
    )
    extras = dict(
        masked_ids=np.where(masked_text, 1, ids).astype(np.int32),
        masked_text=masked_text,
        masked_patches=np.arange(patches) == draw.integers(0, patches, B)[:, None],
        answer_ids=ids[::-1],  # the text of another row
        answer_mask=text_mask[::-1],
        answer_scores=draw.random((B, OTHERS["vqa"]["answers"])).astype(np.float32),
        statement_true=draw.random(B) < 0.5,
        entailment_label=draw.integers(0, 3, B).astype(np.int32),
    )
    if w := cfg.stages["train"].wrong_captions:
        common["wrong_ids"] = draw.integers(3, cfg.text.vocab_size, (B, w, T)).astype(np.int32)
        common["wrong_mask"] = np.arange(T) < draw.integers(3, T, (B, w, 1))
        common["wrong_mask"][0, -1] = False  # a record that has one fewer
    return Batch(**common, extras=extras)


def apply(cfg: Config, params: Params, function: Any, *args: Any) -> Any:
    """Return `function(model, *args)`, with the model bound to `params`."""
    return nn.apply(function, BridgeModel(cfg))({"params": params}, *args)


def lower(cfg: Config, params: Params, batch: Batch) -> Lower:
    """Return the states of both towers just before their first interaction."""

    def run(model: BridgeModel) -> Lower:
        text = model.lower_text(batch.ids, batch.text_mask)
        return Lower(image=model.lower_image(batch.images), text=text, text_mask=jnp.asarray(batch.text_mask))

    return apply(cfg, params, run)


PASSES = forward.passes_of(tuple(LOSSES))


def outputs(cfg: Config, params: Params, batch: Batch, passes: tuple[str, ...] = PASSES) -> Outputs:
    """Return the outputs of the forward passes."""
    key = jax.random.key(cfg.seed)
    how = forward.Forward(passes, lower_frozen=False)
    return forward.outputs(BridgeModel(cfg), params, batch, how, forward.Keys(key, key))


def loss_values(cfg: Config, outputs: Outputs, batch: Batch) -> dict[str, np.ndarray]:
    """Return the mean of every loss of the stage."""
    names = cfg.stages["train"].losses
    return {name: np.asarray(objectives.bind(name, cfg.losses[name])(outputs, batch).mean) for name in names}


def take(batch: Batch, rows: Any) -> Batch:
    """Return the rows of a batch, in that order."""
    return jax.tree.map(lambda array: array[rows], batch)
