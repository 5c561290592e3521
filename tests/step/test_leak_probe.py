"""THE leak probe (docs/method.md 5.1 to 5.3): on unrelated pairs every score we report stays at chance.

Pictures and texts are random and have nothing to do with each other, so nobody can tell a true pair from a wrong one
without looking at a mark that the model itself put there. Trained with the published form of the fused contrast it
learns to put that mark, and its score of fresh pairs is almost perfect. Trained and scored with jointly fused pairs it
stays at chance. Lower states are fed directly, so nothing but the bridge and the heads can be the reason.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Batch, Lower
from tests import tiny

WAYS, SETS, STEPS, LAST = 64, 8, 250, 50
P, T, WIDTH = 10, 6, 32
BELOW = r"vision/(block_00/.*|patch/.*|class_token|position)|text/.*"


def config(form: str, *more: str, **mining):
    """Return one block with one interaction layer above it. The layers below are frozen and never run."""
    return tiny.config(
        vision=dict(depth=1, width=WIDTH, image_px=12, position_grid=3, mask_token=False),
        text=dict(depth=1, width=WIDTH),
        bridge=dict(layers=1, shared_width=WIDTH, embed_width=WIDTH, gate_start=0.5),
        losses=dict(fused_itc=dict(weight=1.0, form=form)),
        mining=dict(partners=1) | mining,
        stage=dict(
            steps=STEPS,
            batch_size=WAYS,
            losses=("itc", "fused_itc", "itm", *more),
            train=((BELOW, False), (".*", True)),
            learning_rate=1e-2,
            cached_crops=1,
        ),
    )


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


def bringing(batch: Batch, draw: np.random.Generator) -> Batch:
    """Return the batch with one picture and one caption for each row that have nothing to do with it either."""
    other = unrelated(draw)
    return dataclasses.replace(
        batch,
        partner_lower_image=other.lower_image[:, None],
        partner_lower_text=other.lower_text[:, None],
        partner_text_mask=other.text_mask[:, None],
        partner_image_valid=np.ones((WAYS, 1), bool),
    )


def train(cfg):
    """Return the parameters, and the fused contrast's mean over the last steps, as one batch varies by chance."""
    stage_step = train_step.build(cfg, cfg.stages["train"], 0, sharding.make_mesh(cfg.mesh))
    state, draw, lost = stage_step.init(jnp.int32(0), init_params(cfg)), np.random.default_rng(0), []
    for _ in range(STEPS):
        batch = unrelated(draw)
        if cfg.mining.source == "split":
            batch = bringing(batch, draw)
        state, metrics = stage_step.train_step(state, batch)
        lost.append(metrics["fused_itc/loss"])
    assert metrics["healthy"]
    return state.params, float(np.mean(lost[-LAST:]))


def fresh():
    return [unrelated(np.random.default_rng(1000 + index)) for index in range(SETS)]


def hits(scores: np.ndarray) -> int:
    """Return how often the true partner beats all 63 others, over both directions; a tie is a miss."""
    true, others = np.diag(scores), np.where(np.eye(WAYS, dtype=bool), -np.inf, scores)
    return int((true > others.max(axis=1)).sum() + (true > others.max(axis=0)).sum())


def chance(sets: list[np.ndarray]) -> np.ndarray:
    """Return the 99.9 % interval of the hits with the pictures permuted.

    It is wider than that of independent guesses: a picture that many texts find best wins in every one of its pairs.
    """
    draw = np.random.default_rng(0)
    permuted = [sum(hits(scores[:, draw.permutation(WAYS)]) for scores in sets) for _ in range(2000)]
    return np.quantile(permuted, [0.0005, 0.9995])


@pytest.mark.parametrize(
    ("more", "mining"),
    [((), {}), (("token_itc",), {}), (("distil",), dict(source="split", ranks=(1, 1)))],
    ids=["alone", "with token_itc", "partners of the split, and distil"],
)
def test_joint_fusion_stays_at_chance(more, mining):
    """Unimodal cosine, fused similarity and match logit, with each of the 64 x 64 pairs of a set fused."""
    cfg = config("joint", *more, **mining)
    params, loss = train(cfg)
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh))
    sets: dict[str, list[np.ndarray]] = {"unimodal": [], "similarity": [], "itm": []}
    texts, images = np.repeat(np.arange(WAYS), WAYS), np.tile(np.arange(WAYS), WAYS)
    for batch in fresh():
        pairs = Lower(image=batch.lower_image[images], text=batch.lower_text[texts], text_mask=batch.text_mask[texts])
        similarity, logit = predict.fused(params, pairs)
        text = predict.unimodal_text(params, batch.lower_text, batch.text_mask)
        sets["unimodal"].append(np.asarray(text @ predict.unimodal_image(params, batch.lower_image).T))
        sets["similarity"].append(np.asarray(similarity).reshape(WAYS, WAYS))
        sets["itm"].append(np.asarray(logit).reshape(WAYS, WAYS))
    for name, scores in sets.items():
        (low, high), count = chance(scores), sum(map(hits, scores))
        assert low <= count <= high, f"{name}: {count} hits, chance is {low:.0f} to {high:.0f}"
    # The same from the side of the loss: no better than an even guess between two.
    assert loss == pytest.approx(np.log(2), abs=0.05)


def test_the_papers_form_leaks():
    """p_t of the true pair i against p_v of the true pair j: over 90 % on pairs that have nothing in common."""
    cfg = config("paper")
    params, _ = train(cfg)
    fuse = jax.jit(lambda pairs: tiny.apply(cfg, params, lambda model: model.fused(pairs)))
    correct = 0
    for batch in fresh():
        fused = fuse(Lower(image=batch.lower_image, text=batch.lower_text, text_mask=batch.text_mask))
        correct += hits(np.asarray(fused.text @ fused.image.T))
    assert correct > 0.9 * 2 * WAYS * SETS, f"{correct} of {2 * WAYS * SETS}"
