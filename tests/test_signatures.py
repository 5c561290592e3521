"""While the tests run, the shapes in signatures are checked, and arrays of different ranks do not broadcast."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from bridge_jax.losses import itc
from bridge_jax.models import layers
from bridge_jax.step import mining
from tests import tiny


@pytest.mark.parametrize(
    "call",
    [
        lambda: itc.symmetric_info_nce(np.zeros((3, 4), np.float32), np.arange(3)),
        lambda: layers.masked_mean(np.zeros((2, 5, 8), np.float32), np.ones((2, 4), bool)),
        lambda: mining.semi_hard(np.zeros((3, 3), np.float32), np.eye(3), None, tiny.config().mining),
    ],
    ids=["losses", "models", "step"],
)
def test_a_wrong_shape_or_type_in_a_signature_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()


def test_arrays_of_different_ranks_do_not_broadcast():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)
