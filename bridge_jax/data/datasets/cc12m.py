"""Conceptual 12M: pictures of the web with their alternative texts, in tars or beside a list."""

from bridge_jax.data.datasets import pairs


class Builder(pairs.Builder, skip_registration=True):
    """Raw folder: see `pairs`."""

    name = "cc12m"
    DESCRIPTION = "Conceptual 12M, 12 million pictures of the web, one caption each."
    HOMEPAGE = "https://github.com/google-research-datasets/conceptual-12m"
    CITATION = "Changpinyo, Sharma, Ding, Soricut: Conceptual 12M. CVPR, 2021."
