"""Fixtures of the tests of tools."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> Iterator[None]:
    """Leave what lives already out of garbage collections.

    statsmodels collects after every correction of p, which takes 15 s where it visits the suite's millions of objects.
    """
    gc.freeze()
    yield
    gc.unfreeze()
