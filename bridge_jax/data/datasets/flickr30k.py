"""Flickr30k with Karpathy's split: 29,000 train photos, 1,014 val, 1,000 test, 5 captions each."""

from typing import ClassVar

from bridge_jax.data.datasets import karpathy


class Builder(karpathy.Builder, skip_registration=True):
    """Raw folder: `flickr30k-images/*.jpg` (or `images/`) and `dataset_flickr30k.json`."""

    name = "flickr30k"
    ANNOTATIONS = "dataset_flickr30k.json"
    IMAGE_DIRS = ("flickr30k-images", "flickr30k_images", "images")
    PUBLISHED: ClassVar = {"train": 29_000, "val": 1_014, "test": 1_000}
    DESCRIPTION = "Flickr30k, 5 captions a photo, Karpathy split."
    HOMEPAGE = "https://shannon.cs.illinois.edu/DenotationGraph/"
    CITATION = "Young, Lai, Hodosh, Hockenmaier: From image descriptions to visual denotations. TACL 2, 2014."
