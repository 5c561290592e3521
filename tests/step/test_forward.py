"""The forward passes: mismatched pairs are fused with their mined partners; padding and order do not matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.config import objectives
from bridge_jax.losses import mim
from bridge_jax.models.placement import is_lower
from bridge_jax.models.towers import normalise
from bridge_jax.step import forward
from bridge_jax.types import Batch
from tests import tiny

DESIGNS = {"none": dict(design="none", layers=0), "pooled": dict(design="pooled")} | {
    name: dict(design=name) for name in ("self_cross", "cross")
}


PLACEMENTS = ("top", "middle", "early", "staggered", "after")


def losses_of(design: str) -> tuple[str, ...]:
    return tuple(name for name in tiny.LOSSES if name != "cycle" or design in ("self_cross", "cross"))


def setup(B: int = 4, partners: int = 2, group: int = 0, design: str = "cross", **sections):
    mine = dict(partners=partners, group=group)
    cfg = tiny.config(mining=mine, bridge=DESIGNS[design], stage=dict(losses=losses_of(design)), **sections)
    return cfg, tiny.params(cfg), tiny.batch(cfg, B)


def test_the_true_pairs_are_the_same_with_and_without_the_mismatched_pass():
    cfg, params, batch = setup()
    alone = tiny.outputs(cfg, params, batch, passes=("fused",)).fused
    among = tiny.outputs(cfg, params, batch, passes=("fused", "mismatched")).fused
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), alone, among)


def test_mining_sends_no_gradient_into_the_unimodal_heads():
    """Fused losses alone: the unimodal embeddings choose the partners but are not trained by them."""
    cfg, params, batch = setup()

    def total(heads):
        outputs = tiny.outputs(cfg, {**params, "heads": heads}, batch, passes=("fused", "mismatched"))
        return outputs.by_text.similarity.sum() + outputs.by_image.itm_logit.sum()

    gradient = jax.grad(total)(params["heads"])
    assert not jnp.any(gradient["unimodal_text"]["linear"]["kernel"])
    assert jnp.any(gradient["fused_text"]["linear"]["kernel"])


@pytest.mark.parametrize(
    ("passes", "fields"),
    [
        (("unimodal",), {"unimodal_image", "unimodal_text"}),
        (("fused",), {"fused"}),
        (("fused", "mismatched"), {"unimodal_image", "unimodal_text", "fused", "by_text", "by_image"}),
        (("mlm",), set()),
        (("mim",), set()),
    ],
)
def test_only_the_requested_passes_run(passes, fields):
    cfg, params, batch = setup()
    outputs = tiny.outputs(cfg, params, batch, passes=passes)
    own = vars(outputs).pop("own")
    assert {name for name, value in vars(outputs).items() if value is not None} == fields | {"logit_scale"}
    assert set(own) == {"mlm", "mim"} & set(passes)


@pytest.mark.parametrize("name", objectives.known())
def test_what_a_loss_needs_is_there(name):
    """It names passes that exist, no pass has its name, and it reads the head that it adds."""
    needs = objectives.needs(name)
    assert set(needs.passes) <= set(objectives.PASSES)
    assert name not in objectives.PASSES
    assert needs.head is None or needs.output


def test_a_loss_names_its_own_batch_fields_uniquely():
    names = [
        field
        for name, arguments in (tiny.LOSSES | tiny.OTHERS).items()
        if (fields := objectives.needs(name).fields)
        for field in fields.shapes(tiny.config(stage=dict(losses=(name,))))
    ]
    assert len(names) == len(set(names)) > 5
    assert not set(names) & {field.name for field in dataclasses.fields(Batch)}
    assert set(tiny.LOSSES | tiny.OTHERS) == set(objectives.known())


def test_the_order_in_which_a_stage_lists_its_losses_changes_nothing():
    names = tuple(tiny.LOSSES)
    assert forward.passes_of(names) == forward.passes_of(names[::-1])


@pytest.mark.parametrize("design", DESIGNS)
def test_padding_changes_no_loss_bit_for_bit(design):
    cfg, params, batch = setup(design=design)
    masked_ids = batch.extras["masked_ids"]
    spoilt = dataclasses.replace(
        batch,
        ids=np.where(batch.text_mask, batch.ids, 7).astype(np.int32),
        extras=batch.extras | {"masked_ids": np.where(batch.text_mask, masked_ids, 9).astype(np.int32)},
    )
    outputs, again = tiny.outputs(cfg, params, batch), tiny.outputs(cfg, params, spoilt)
    before, after = tiny.loss_values(cfg, outputs, batch), tiny.loss_values(cfg, again, spoilt)
    assert before == after
    assert set(before) == set(losses_of(design))
    for name in ("by_text", "by_image", "unimodal_text"):
        jax.tree.map(np.testing.assert_array_equal, getattr(outputs, name), getattr(again, name))
    np.testing.assert_array_equal(outputs.own["mim"].prediction, again.own["mim"].prediction)
    np.testing.assert_array_equal(outputs.own["mlm"][batch.text_mask], again.own["mlm"][batch.text_mask])


def test_permuting_the_batch_permutes_the_losses_nowhere():
    """With all other pairs mined (k = B - 1) nothing is random, and each loss is one number of the whole batch."""
    cfg, params, batch = setup(partners=3)
    order = np.array([2, 0, 3, 1])
    moved = tiny.take(batch, order)
    outputs, again = tiny.outputs(cfg, params, batch), tiny.outputs(cfg, params, moved)
    before, after = tiny.loss_values(cfg, outputs, batch), tiny.loss_values(cfg, again, moved)
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-4), name
    np.testing.assert_allclose(outputs.unimodal_text[order], again.unimodal_text, rtol=1e-5, atol=1e-5)
    for ours, theirs in ((outputs.by_text, again.by_text), (outputs.by_image, again.by_image)):
        wrong, mixed = (np.sort(c.similarity[:, 1:], axis=1) for c in (ours, theirs))
        np.testing.assert_allclose(wrong[order], mixed, rtol=1e-4, atol=1e-5)


def test_cached_lower_states_replace_pixels_and_ids():
    cfg, params, batch = setup()
    low = tiny.lower(cfg, params, batch)
    cached = dataclasses.replace(batch, images=None, ids=None, lower_image=low.image, lower_text=low.text)
    passes = ("unimodal", "fused", "mismatched")
    outputs, again = (tiny.outputs(cfg, params, b, passes=passes) for b in (batch, cached))
    jax.tree.map(np.testing.assert_array_equal, outputs, again)


def test_a_frozen_lower_tower_runs_without_dropout():
    """Reading its states from the cache then changes nothing."""
    cfg, params, batch = setup(text=dict(dropout=0.5), vision=dict(dropout=0.5))
    model, key = forward.BridgeModel(cfg), jax.random.key(0)

    def lower_of(frozen: bool):
        def run(model):
            return forward._lower(model, batch, deterministic=frozen)

        return forward.nn.apply(run, model)({"params": params}, rngs={"dropout": key})

    exact = tiny.lower(cfg, params, batch)
    np.testing.assert_array_equal(lower_of(True).text, exact.text)
    np.testing.assert_array_equal(lower_of(True).image, exact.image)
    assert not np.allclose(lower_of(False).text, exact.text)
    assert not np.allclose(lower_of(False).image, exact.image)


def test_masking_reaches_the_masked_passes_alone():
    cfg, params, batch = setup()
    unmasked = {"masked_ids": batch.ids, "masked_patches": np.zeros_like(batch.extras["masked_patches"])}
    other = dataclasses.replace(batch, extras=batch.extras | unmasked)
    outputs, again = tiny.outputs(cfg, params, batch), tiny.outputs(cfg, params, other)
    np.testing.assert_array_equal(outputs.fused.text, again.fused.text)
    assert not np.allclose(outputs.own["mlm"], again.own["mlm"])
    assert not np.allclose(outputs.own["mim"].prediction, again.own["mim"].prediction)
    fused = outputs.fused.text_states
    unmasked = tiny.apply(cfg, params, lambda m: m.heads.by_loss["mlm"](fused))
    np.testing.assert_allclose(again.own["mlm"], unmasked, rtol=1e-4, atol=1e-4)


def test_mim_targets():
    cfg, params, batch = setup()
    outputs = tiny.outputs(cfg, params, batch, passes=("mim",))
    side = cfg.vision.patch_px
    pixels = np.asarray(normalise(batch.images, cfg))
    np.testing.assert_array_equal(outputs.own["mim"].target[:, 1], pixels[:, :side, side:].reshape(4, -1))
    np.testing.assert_array_equal(outputs.own["mim"].target[:, 2], pixels[:, side:, :side].reshape(4, -1))

    features, _, _ = setup(losses=dict(mim=dict(weight=1.0, target="features")))
    params = tiny.params(features)
    outputs = tiny.outputs(features, params, batch, passes=("mim",))
    low = tiny.lower(features, params, batch)
    finished = tiny.apply(features, params, lambda m: m.finish_image(low.image))
    np.testing.assert_allclose(outputs.own["mim"].target, finished[:, 1:], rtol=1e-5, atol=1e-5)
    assert outputs.own["mim"].prediction.shape == outputs.own["mim"].target.shape


TOWERS = [
    dict(vision=dict(tower="tipsv2", layer_scale=True), text=dict(tower="roberta", token_types=1)),
    dict(vision=dict(tower="clip"), text=dict(tower="clip", token_types=0)),
    dict(vision=dict(tower="siglip"), text=dict(tower="siglip", token_types=0)),
    dict(vision=dict(tower="dinov3", layer_scale=True)),
    dict(text=dict(tower="modernbert", token_types=0)),
]


@pytest.mark.parametrize("towers", TOWERS, ids=str)
def test_every_loss_runs_on_every_tower(towers):
    """MIM's targets read the patches alone, after zero, one, two or five other tokens."""
    shallow = {side: dict(depth=2) | towers.get(side, {}) for side in ("vision", "text")}
    cfg = tiny.config(**shallow, bridge=dict(layers=1))
    batch = tiny.batch(cfg)
    outputs = tiny.outputs(cfg, tiny.params(cfg), batch)
    assert outputs.own["mim"].prediction.shape == outputs.own["mim"].target.shape == (4, 4, 48)
    assert all(np.isfinite(value) for value in tiny.loss_values(cfg, outputs, batch).values())


@pytest.mark.parametrize(
    "sections",
    [dict(bridge=dict(placement=p)) for p in PLACEMENTS]
    + [dict(bridge=DESIGNS["none"])]
    + [towers | dict(bridge=dict(placement=p)) for towers in TOWERS for p in ("top", "after")],
    ids=str,
)
def test_is_lower_is_what_the_lower_pass_reads(sections):
    """The oracle is the gradient of the lower states. A key bias has none: it shifts all logits of a softmax alike."""
    cfg = tiny.config(**sections)
    batch = tiny.batch(cfg)

    def total(flat):
        low = tiny.lower(cfg, paths.unflatten(flat), batch)
        return (low.image**3).sum() + (low.text**3).sum()

    for path, gradient in jax.jit(jax.grad(total))(paths.flatten(tiny.params(cfg))).items():
        if path != "vision/mask_token" and not path.endswith("attention/key/bias"):
            assert np.any(gradient) == is_lower(path, cfg), path


def test_patches_are_cut_row_by_row():
    picture = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    cut = mim.patches(picture, 2)
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], picture[1, 2:4, 2:4].ravel())
