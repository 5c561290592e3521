"""Conceptual Captions 3M: pictures of the web with their cleaned alternative texts, in tars or beside a list."""

from bridge_jax.data.datasets import pairs


class Builder(pairs.Builder, skip_registration=True):
    """Raw folder: see `pairs`."""

    name = "cc3m"
    DESCRIPTION = "Conceptual Captions, 3.3 million pictures of the web, one caption each."
    HOMEPAGE = "https://ai.google.com/research/ConceptualCaptions"
    CITATION = "Sharma, Ding, Goodman, Soricut: Conceptual Captions. ACL, 2018."
