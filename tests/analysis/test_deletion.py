"""bridge_jax/analysis/deletion.py, against loops and a model whose answer is known."""

import numpy as np
import pytest

from bridge_jax.analysis import deletion


def test_the_most_attended_patches_are_marked():
    attention = np.array([[0.1, 0.5, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]])
    assert deletion.most_attended(attention, 0.5).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert deletion.most_attended(attention, 0.01).sum(axis=1).tolist() == [1, 1]


def test_random_patches_are_as_many_and_every_patch_is_drawn_alike():
    drawn = deletion.random_patches(rows=50, patches=20, share=0.1, draws=40, seed=0)
    assert drawn.shape == (40, 50, 20)
    assert set(drawn.sum(axis=2).ravel()) == {2}
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), 0.1, atol=0.03)
    assert (drawn == deletion.random_patches(50, 20, 0.1, 40, 0)).all()


def linear(weights, removed):
    """A match logit that is the sum of the weights of the patches that stay."""
    return (weights * ~removed).sum(axis=-1)


@pytest.mark.parametrize(("informed", "matters"), [(True, True), (False, False)])
def test_a_map_that_points_at_the_weights_matters_and_a_random_one_does_not(informed, matters):
    draw = np.random.default_rng(1)
    weights = draw.exponential(size=(60, 30))
    attention = weights if informed else draw.random(weights.shape)
    removed = deletion.random_patches(60, 30, 0.1, 10, seed=2)
    logits = [linear(weights, each) for each in (np.zeros_like(removed[0]), deletion.most_attended(attention, 0.1))]
    found = deletion.fall(*logits, linear(weights, removed), np.repeat(np.arange(20), 3), seed=0)
    assert found.matters is matters
    assert found.low < found.difference < found.high
    if informed:
        assert found.attended == pytest.approx(np.sort(weights, axis=1)[:, -3:].sum(axis=1).mean())


def test_the_fall_is_averaged_over_a_photos_captions_first():
    """Photo 1 has one caption, photo 2 three: both count alike."""
    whole, photos = np.zeros(4), np.array([1, 2, 2, 2])
    attended, random = np.array([-4.0, -1.0, -1.0, -1.0]), np.array([[-1.0, 0.0, 0.0, 0.0], [-3.0, 0.0, 0.0, 0.0]])
    found = deletion.fall(whole, attended, random, photos, seed=0)
    assert (found.attended, found.random, found.difference) == (2.5, 1.0, 1.5)
    assert (found.low, found.high) == (1.0, 2.0)
