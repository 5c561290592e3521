"""Oracles: BERT's 80/10/10 counted over many draws, exact numbers of patches, and neighbours counted by hand."""

import numpy as np
import pytest

from bridge_jax.data import masking, text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join((*text.SPECIAL, *(f"w{i}" for i in range(200)))), encoding="utf-8")
    return text.Tokenizer(path, 14)


@pytest.fixture(scope="module")
def caption(tokenizer):
    (ids,), (mask,) = tokenizer.encode(["w1 w2 w3 w4 unknown w5 w6 w7 w8 w9 w10"])
    return ids, mask


def test_the_chosen_become_mask_random_or_stay(tokenizer, caption):
    ids, mask = caption
    generator, outcomes = np.random.default_rng(0), []
    for _ in range(3000):
        masked, predict = masking.mask_tokens(ids, mask, tokenizer, 0.3, generator)
        assert predict.sum() == 3  # of 10 words
        np.testing.assert_array_equal(masked[~predict], ids[~predict])
        outcomes += list(np.where(masked == tokenizer.mask_id, 0, np.where(masked == ids, 2, 1))[predict])
        assert not set(masked[predict]) & (tokenizer.special_ids - {tokenizer.mask_id})
    shares = np.bincount(outcomes, minlength=3) / len(outcomes)
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.015)


def test_special_tokens_and_padding_are_never_predicted(tokenizer, caption):
    ids, mask = caption
    masked, predict = masking.mask_tokens(ids, mask, tokenizer, 1.0, np.random.default_rng(0))
    special = np.isin(ids, list(tokenizer.special_ids))
    np.testing.assert_array_equal(predict, ~special)
    np.testing.assert_array_equal(masked[special], ids[special])


def test_at_least_one_word_is_predicted_and_the_input_is_left_alone(tokenizer, caption):
    ids, mask = caption
    before = ids.copy()
    _, predict = masking.mask_tokens(ids, mask, tokenizer, 0.0, np.random.default_rng(0))
    assert predict.sum() == 1
    np.testing.assert_array_equal(ids, before)


def test_a_caption_without_words_has_nothing_to_predict(tokenizer):
    (ids,), (mask,) = tokenizer.encode(["unknown"])
    masked, predict = masking.mask_tokens(ids, mask, tokenizer, 0.5, np.random.default_rng(0))
    assert not predict.any()
    np.testing.assert_array_equal(masked, ids)


@pytest.mark.parametrize("fraction", [0.0, 0.15, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("count", [1, 64, 196, 256])
def test_exactly_the_fraction_of_the_patches_is_masked(count, fraction):
    generator = np.random.default_rng(0)
    for _ in range(20):
        masked = masking.mask_patches(count, fraction, generator)
        assert masked.shape == (count,)
        assert masked.dtype == bool
        assert masked.sum() == round(fraction * count)


def test_patches_are_masked_in_blocks_all_over_the_picture():
    generator = np.random.default_rng(0)
    draws = np.stack([masking.mask_patches(196, 0.4, generator).reshape(14, 14) for _ in range(300)])
    beside = (draws[:, :, 1:] & draws[:, :, :-1]).sum() / draws[:, :, :-1].sum()
    assert beside > 0.6  # drawn one by one, a masked patch would have a masked neighbour with probability 0.4
    assert draws.mean(axis=0).min() > 0.12  # 0.21 over many draws; blocks kept inside the picture give 0.05
    assert draws.mean(axis=0).max() < 0.6
    assert len({draw.tobytes() for draw in draws}) == 300


def test_patches_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="square grid, got 60"):
        masking.mask_patches(60, 0.4, np.random.default_rng(0))
