"""Masked image modelling: squared error at the masked patches, with each target patch normalised."""

from functools import partial

import jax
import numpy as np
import pytest

from bridge_jax.config import ConfigError
from bridge_jax.losses import mim
from bridge_jax.types import Batch, Outputs

B, PATCHES, X = 2, 3, 6
MASKED = np.array([[0, 1, 1], [1, 0, 0]], bool)
draw = np.random.default_rng(0)
TARGET = (3 * draw.normal(size=(B, PATCHES, X)) + 5).astype(np.float32)
PREDICTION = draw.normal(size=(B, PATCHES, X)).astype(np.float32)
BATCH = Batch(image_ids=np.arange(B), text_mask=np.ones((B, 1), bool), extras={"masked_patches": MASKED})
loss = partial(mim.loss, mask_fraction=0.4)


def outputs(prediction=PREDICTION, target=TARGET):
    return Outputs(logit_scale=1.0, own={"mim": mim.Predicted(prediction, target)})


@pytest.mark.parametrize("target", mim.TARGETS)
def test_equals_the_loop(target):
    result, expected = loss(outputs(), BATCH, target=target), 0.0
    for i, p in zip(*np.nonzero(MASKED), strict=True):
        normalised = (TARGET[i, p] - TARGET[i, p].mean()) / (TARGET[i, p].std() + 1e-3)
        expected += ((PREDICTION[i, p] - normalised) ** 2).mean()
    assert result.count == 3
    assert result.sum == pytest.approx(expected, rel=1e-5)


def test_brightness_and_contrast_of_a_patch_do_not_matter():
    brighter = loss(outputs(target=4 * TARGET - 10), BATCH, target="pixels")
    assert brighter.mean == pytest.approx(float(loss(outputs(), BATCH, target="pixels").mean), rel=1e-2)
    assert np.isfinite(loss(outputs(target=np.ones_like(TARGET)), BATCH, target="pixels").sum)


def test_other_patches_get_no_gradient():
    gradient = jax.grad(lambda x: loss(outputs(prediction=x), BATCH, target="pixels").sum)(PREDICTION)
    assert ((np.abs(gradient).max(axis=-1) > 0) == MASKED).all()


def test_an_unknown_target_raises_config_error():
    with pytest.raises(ConfigError, match=r"config\.losses\.mim\.target: 'tokens' is unknown; known: pixels, features"):
        loss(outputs(), BATCH, target="tokens")
