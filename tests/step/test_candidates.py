"""Candidates of the fused losses: every pair against the fusion of that one pair alone."""

import dataclasses

import jax
import numpy as np
import pytest

from bridge_jax.step import mining
from bridge_jax.types import Lower
from tests import tiny


def setup(group: int, partners: int = 2):
    cfg = tiny.config(mining=dict(partners=partners, group=group))
    return cfg, tiny.params(cfg), tiny.batch(cfg)


def mine_by_hand(cosines, same, key, g: int, settings) -> tuple[np.ndarray, np.ndarray]:
    """Return the partners, as rows of the batch, that mining in groups of `g` neighbouring rows finds."""
    starts = range(0, len(cosines), g)
    blocks = [np.stack([matrix[s : s + g, s : s + g] for s in starts]) for matrix in (cosines, same)]
    index, valid = map(np.asarray, mining.semi_hard(*blocks, key, settings))
    rows = index + np.array(starts)[:, None, None]
    return rows.reshape(len(cosines), -1), valid.reshape(len(cosines), -1)


@pytest.mark.parametrize(("group", "partners"), [(0, 2), (2, 2), (0, 3), (2, 1)])
def test_mismatched_pairs_are_fused_one_by_one_with_the_mined_partners(group, partners):
    """Every candidate against the fusion of that one pair alone; the partners against mining called by hand."""
    cfg, params, batch = setup(group, partners)
    batch = dataclasses.replace(batch, image_ids=np.array([5, 6, 5, 7], np.int32))
    outputs = tiny.outputs(cfg, params, batch, passes=("unimodal", "fused", "mismatched"))
    low = tiny.lower(cfg, params, batch)

    def fuse(text: int, image: int):
        pair = Lower(image=low.image[image][None], text=low.text[text][None], text_mask=low.text_mask[text][None])
        return tiny.apply(cfg, params, lambda m: m.fused(pair))

    cosines = np.asarray(outputs.unimodal_text @ outputs.unimodal_image.T)
    same = batch.image_ids[:, None] == batch.image_ids
    text_key, image_key = jax.random.split(jax.random.key(cfg.seed))
    images, by_text_valid = mine_by_hand(cosines, same, text_key, group or 4, cfg.mining)
    texts, by_image_valid = mine_by_hand(cosines.T, same, image_key, group or 4, cfg.mining)
    for candidates, partners, valid, is_text in (
        (outputs.by_text, images, by_text_valid, True), (outputs.by_image, texts, by_image_valid, False),
    ):  # fmt: skip
        assert candidates.similarity.shape == (4, 1 + cfg.mining.partners)
        np.testing.assert_array_equal(candidates.valid[:, 0], True)
        np.testing.assert_array_equal(candidates.valid[:, 1:], valid)
        for query in range(4):
            for column, partner in enumerate([query, *map(int, partners[query])]):
                text, image = (query, partner) if is_text else (partner, query)
                alone = fuse(text, image)
                close = {"rtol": 1e-4, "atol": 1e-5}
                np.testing.assert_allclose(
                    candidates.similarity[query, column], alone.text[0] @ alone.image[0], **close
                )
                np.testing.assert_allclose(candidates.itm_logit[query, column], alone.itm_logit[0], **close)
                np.testing.assert_allclose(candidates.unimodal[query, column], cosines[text, image], **close)
                assert not candidates.valid[query, column] or column == 0 or not same[text, image]


@pytest.mark.parametrize("group", [0, 2])
def test_wrong_captions_are_fused_with_their_own_picture_beside_the_mined_texts(group):
    """Each against the fusion of that one pair alone; the mined candidates stay as they are without them."""
    cfg, params, batch = setup(group=group)
    train = dataclasses.replace(cfg.stages["train"], wrong_captions=2)
    cfg = dataclasses.replace(cfg, stages={"train": train})
    batch = dataclasses.replace(tiny.batch(cfg), image_ids=batch.image_ids)
    passes = ("unimodal", "fused", "mismatched")
    outputs = tiny.outputs(cfg, params, batch, passes=passes)
    without = dataclasses.replace(batch, wrong_ids=None, wrong_mask=None)
    mined, k = tiny.outputs(cfg, params, without, passes=passes), cfg.mining.partners
    close = {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **close), outputs.by_text, mined.by_text)
    first = jax.tree.map(lambda x: x[:, : 1 + k], outputs.by_image)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **close), first, mined.by_image)
    np.testing.assert_array_equal(outputs.by_image.valid[:, 1 + k :], batch.wrong_mask.any(axis=2))
    low = tiny.lower(cfg, params, batch)

    def fuse(model, row, number):
        ids, mask = batch.wrong_ids[row, number][None], batch.wrong_mask[row, number][None]
        text = model.lower_text(ids, mask)
        pair = model.fused(Lower(image=low.image[row][None], text=text, text_mask=mask))
        return (pair.text * pair.image).sum(), pair.itm_logit[0], model.unimodal_text(text, mask)[0]

    for row, number in np.argwhere(batch.wrong_mask.any(axis=2)):
        similarity, logit, embedding = tiny.apply(cfg, params, fuse, row, number)
        column = 1 + k + number
        np.testing.assert_allclose(outputs.by_image.similarity[row, column], similarity, **close)
        np.testing.assert_allclose(outputs.by_image.itm_logit[row, column], logit, **close)
        cosine = embedding @ outputs.unimodal_image[row]
        np.testing.assert_allclose(outputs.by_image.unimodal[row, column], cosine, **close)


@pytest.mark.parametrize("cached", [False, True], ids=["pixels and words", "cached states"])
def test_partners_from_the_split_are_fused_with_the_row_that_brings_them(cached):
    """Each against the fusion of that one pair alone, wrong captions behind them; none is mined in the batch."""
    cfg = tiny.config(stage=dict(wrong_captions=1), mining=dict(source="split", partners=2, ranks=(1, 2)))
    params, batch = tiny.params(cfg), tiny.batch(cfg)
    others = [tiny.batch(cfg, seed=seed) for seed in (1, 2)]  # the partners of each row
    low, lows = tiny.lower(cfg, params, batch), [tiny.lower(cfg, params, other) for other in others]

    def stacked(arrays):
        return np.stack(list(map(np.asarray, arrays)), axis=1)

    if cached:
        images, texts = stacked(low.image for low in lows), stacked(low.text for low in lows)
        brought = dict(partner_images=None, partner_ids=None, partner_lower_image=images, partner_lower_text=texts)
    else:
        images, texts = stacked(other.images for other in others), stacked(other.ids for other in others)
        brought = dict(partner_images=images, partner_ids=texts)
    valid, mask = np.array([[True, True], [True, False]] * 2), stacked(other.text_mask for other in others)
    mask[2, 1] = False
    brought |= dict(partner_image_valid=valid, partner_text_mask=mask)
    batch = dataclasses.replace(batch, **brought)
    outputs = tiny.outputs(cfg, params, batch, passes=("unimodal", "fused", "mismatched"))
    assert (outputs.by_text.valid.shape, outputs.by_image.valid.shape) == ((4, 3), (4, 4))
    np.testing.assert_array_equal(outputs.by_text.valid[:, 1:], valid)
    np.testing.assert_array_equal(outputs.by_image.valid[:, 1:3], mask.any(axis=2))
    np.testing.assert_array_equal(outputs.by_image.valid[:, 3:], batch.wrong_mask.any(axis=2))

    def fuse(model, image, text, mask):
        pair = model.fused(Lower(image=image[None], text=text[None], text_mask=mask[None]))
        cosine = model.unimodal_text(text[None], mask[None])[0] @ model.unimodal_image(image[None])[0]
        return (pair.text * pair.image).sum(), pair.itm_logit[0], cosine

    def agree(candidates, row, column, alone):
        found = (candidates.similarity, candidates.itm_logit, candidates.unimodal)
        for values, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(values[row, column], expected, rtol=1e-4, atol=1e-5)

    for row in range(4):
        for column, (other, its) in enumerate(zip(others, lows, strict=True), start=1):
            own = tiny.apply(cfg, params, fuse, its.image[row], low.text[row], low.text_mask[row])
            agree(outputs.by_text, row, column, own)
            if mask[row, column - 1].any():
                own = tiny.apply(cfg, params, fuse, low.image[row], its.text[row], other.text_mask[row])
                agree(outputs.by_image, row, column, own)


def test_false_negatives_are_no_partners_and_are_counted():
    cfg, params, batch = setup(group=0)
    cfg = dataclasses.replace(cfg, mining=dataclasses.replace(cfg.mining, false_margin=0.0, partners=3))
    outputs = tiny.outputs(cfg, params, batch, passes=("unimodal", "fused", "mismatched"))
    cosines = np.asarray(outputs.unimodal_text @ outputs.unimodal_image.T)
    above = [(scores > np.diag(scores)[:, None]) for scores in (cosines, cosines.T)]
    assert float(outputs.left_out) == pytest.approx(sum(each.sum() for each in above) / 24)
    for candidates, each in zip((outputs.by_text, outputs.by_image), above, strict=True):
        np.testing.assert_array_equal(candidates.valid[:, 1:].sum(axis=1), 3 - each.sum(axis=1))
