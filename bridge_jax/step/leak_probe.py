"""The leak probe (docs/method.md 5.1 to 5.3): train on unrelated pairs, and count how often one finds the other.

Pictures and texts are random and have nothing to do with each other, so nobody can tell a true pair from a wrong one
without looking at a mark that the model itself put there. A tiny bridge trains on such pairs with the losses, the
form, the design and the mining of an experiment. Every score of fresh pairs has to stay at chance. Lower states are fed
directly, so nothing but the bridge and the heads can be the reason.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bridge_jax.config import Config, Mesh, evaluators, objectives
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import Predict, build_predict
from bridge_jax.types import Array, Batch, Lower, Params

WAYS, SETS, STEPS, LAST = 64, 8, 250, 50
P, T, WIDTH = 10, 6, 32  # tokens of a picture, tokens of a text, width of both towers
BELOW = r"vision/(block_00/.*|patch/.*|class_token|position)|text/.*"
_PERMUTATIONS = 2000


class Count(NamedTuple):
    """How often the true partner beats all 63 others of its set, over both directions, and what chance gives."""

    hits: int  # of 2 x WAYS x SETS
    low: int  # the 99.9 % interval of chance
    high: int

    @property
    def at_chance(self) -> bool:
        return self.low <= self.hits <= self.high


def probe(cfg: Config) -> dict[str, Count]:
    """Return the count of every score that the experiment `cfg` reports, after training on unrelated pairs.

    The scores are `unimodal`, and where there is a bridge `similarity` and `match` of jointly fused pairs. With the
    published form of the fused contrast there is `published` too, the score which that form trains.
    """
    tiny = shrink(cfg)
    return counts(tiny, train(tiny)[0])


def shrink(cfg: Config) -> Config:
    """Return the experiment with towers of one block, at most one layer above it, and one stage on cached states.

    The stage has the losses of the last stage of `cfg` that fuses pairs, or of its last stage. Losses that need words
    or pixels are left out. The block below the layer is frozen and never runs.
    """
    fusing = [stage for stage in cfg.run_stages if objectives.trains_fused(stage)]
    below = BELOW if cfg.bridge.layers else f"{BELOW}|vision/norm/.*"  # without a bridge nothing of a tower lies above
    losses = [name for name in (fusing or cfg.run_stages)[-1].losses if _reads_states(name)] or ["itc"]
    stage = dataclasses.replace(
        cfg.run_stages[-1],
        name="probe",
        steps=STEPS,
        batch_size=WAYS,
        microbatches=1,
        group_examples=1,
        losses=tuple(losses),
        train=((below, False), (".*", True)),
        top_blocks=0,
        learning_rate=1e-2,
        lr_factors=((".*", 1.0),),
        cached_crops=1,
        wrong_captions=0,
    )
    tower = dict(depth=1, width=WIDTH, heads=4, mlp_width=40, dropout=0.0, pretrained="")
    image = dict(tower="vit", patch_px=4, image_px=12, position_grid=3, layer_scale=False, mask_token=False)
    text = dict(tower="bert", length=T, max_positions=8, vocab_size=20, token_types=2)
    bridge = dict(placement="top", layers=min(1, cfg.bridge.layers), shared_width=WIDTH, heads=2, embed_width=WIDTH)
    dropout = dict(gate_start=0.5, attention_dropout=0.0, output_dropout=0.0)
    return dataclasses.replace(
        cfg,
        mesh=Mesh(data=-1, fsdp=1, tensor=1),
        sharding=((".*", ()),),
        vision=dataclasses.replace(cfg.vision, **tower, **image),
        text=dataclasses.replace(cfg.text, **tower, **text),
        bridge=dataclasses.replace(cfg.bridge, **bridge, **dropout),
        decoder=None,
        losses={name: cfg.losses[name] for name in losses},
        mining=dataclasses.replace(cfg.mining, group=0),
        no_decay=(".*",),
        stages={"probe": stage},
        stage_order=("probe",),
        evals={"retrieval": dataclasses.replace(evaluators.settings(cfg, "retrieval"), batch_size=WAYS)},
    )


def _reads_states(name: str) -> bool:
    """Return whether a loss can be computed from lower states alone."""
    need = objectives.needs(name)
    return need.fields is None and not need.decoder and need.pictures is None and need.reads in ("", "captions")


def unrelated(draw: np.random.Generator) -> Batch:
    """Return 64 pairs of a random picture and a random text, each with a content of its own and noise on each token."""

    def content(length: int) -> np.ndarray:
        noise = draw.normal(scale=0.5, size=(WAYS, length, WIDTH))
        return (draw.normal(size=(WAYS, 1, WIDTH)) + noise).astype(np.float32)

    lengths = draw.integers(3, T + 1, WAYS)
    return Batch(
        image_ids=np.arange(WAYS, dtype=np.int32),
        text_mask=np.arange(T) < lengths[:, None],
        lower_image=content(P),
        lower_text=content(T),
    )


def _bringing(batch: Batch, partners: int, draw: np.random.Generator) -> Batch:
    """Return the batch with pictures and captions for each row that have nothing to do with it either."""
    others = [unrelated(draw) for _ in range(partners)]
    return dataclasses.replace(
        batch,
        partner_lower_image=np.stack([other.lower_image for other in others], axis=1),
        partner_lower_text=np.stack([other.lower_text for other in others], axis=1),
        partner_text_mask=np.stack([other.text_mask for other in others], axis=1),
        partner_image_valid=np.ones((WAYS, partners), bool),
    )


def train(cfg: Config) -> tuple[Params, dict[str, float]]:
    """Return the parameters, and each loss's mean over the last steps, as one batch varies by chance.

    Raises FloatingPointError if a number is not finite.
    """
    (stage,) = cfg.run_stages
    mesh = sharding.make_mesh(cfg.mesh)
    stage_step = train_step.build(cfg, stage, 0, mesh)
    state, draw, last = stage_step.init(jnp.int32(0), init_params(cfg)), np.random.default_rng(0), []
    partners = objectives.partners_brought(cfg, stage)
    for _ in range(STEPS):
        batch = unrelated(draw)
        batch = _bringing(batch, partners, draw) if partners else batch
        state, metrics = stage_step.train_step(state, sharding.put_batch(batch, mesh))
        last = [*last, metrics][-LAST:]
    if not last[-1]["healthy"]:
        raise FloatingPointError("the leak probe met a number that is not finite")
    names = [name for name in last[-1] if name.endswith("/loss")]
    return state.params, {name: float(np.mean([step[name] for step in last])) for name in names}


def counts(cfg: Config, params: Params) -> dict[str, Count]:
    """Return the count of every score, of fresh unrelated pairs; each of the 64 x 64 pairs of a set is fused."""
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh))
    sets = [_scores(cfg, predict, params, unrelated(np.random.default_rng(1000 + i))) for i in range(SETS)]
    return {name: _count([scores[name] for scores in sets]) for name in sets[0]}


def _scores(cfg: Config, predict: Predict, params: Params, batch: Batch) -> dict[str, np.ndarray]:
    """Return the matrices [texts, images] of one set."""
    text = predict.unimodal_text(params, batch.lower_text, batch.text_mask)
    found = {"unimodal": text @ predict.unimodal_image(params, batch.lower_image).T}
    if cfg.bridge.layers:
        texts, images = np.repeat(np.arange(WAYS), WAYS), np.tile(np.arange(WAYS), WAYS)
        every = Lower(image=batch.lower_image[images], text=batch.lower_text[texts], text_mask=batch.text_mask[texts])
        found["similarity"], found["match"] = (each.reshape(WAYS, WAYS) for each in predict.fused(params, every))
    if "fused_itc" in cfg.losses and cfg.losses["fused_itc"]["form"] == "paper":
        true = Lower(image=batch.lower_image, text=batch.lower_text, text_mask=batch.text_mask)
        fused_text, fused_image = predict.jit(_sides)(params, true)
        found["published"] = fused_text @ fused_image.T
    return {name: np.asarray(scores) for name, scores in found.items()}


def _sides(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
    pairs = model.fused(lower)
    return pairs.text, pairs.image


def _count(sets: list[np.ndarray]) -> Count:
    """Return the hits, and the 99.9 % interval of the hits with the pictures permuted.

    It is wider than that of independent guesses: a picture that many texts find best wins in every one of its pairs.
    """
    draw, own = np.random.default_rng(0), np.arange(WAYS)
    winners = [(_winners(scores), _winners(scores.T)) for scores in sets]

    def hits(pictures: list[np.ndarray]) -> int:
        """Count the texts that find the picture at their place, and the pictures that find that text; a tie is none."""
        found = [
            (of_text == place).sum() + (of_image[place] == own).sum()
            for (of_text, of_image), place in zip(winners, pictures, strict=True)
        ]
        return int(sum(found))

    permuted = [hits([draw.permutation(WAYS) for _ in sets]) for _ in range(_PERMUTATIONS)]
    low, high = np.quantile(permuted, [0.0005, 0.9995])
    return Count(hits([own] * len(sets)), int(np.ceil(low)), int(np.floor(high)))


def _winners(scores: np.ndarray) -> np.ndarray:
    """Return the column of each row's greatest score, -1 where two share it."""
    alone = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(alone, scores.argmax(axis=1), -1)
