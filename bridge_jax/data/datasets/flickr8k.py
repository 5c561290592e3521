"""Flickr8k with Karpathy's split: about 8,000 photos, 5 captions each."""

from typing import ClassVar

from bridge_jax.data.datasets import karpathy


class Builder(karpathy.Builder, skip_registration=True):
    """Raw folder: `images/*.jpg` (or the original archive's `Flicker8k_Dataset/`) and `dataset_flickr8k.json`."""

    name = "flickr8k"
    ANNOTATIONS = "dataset_flickr8k.json"
    IMAGE_DIRS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
    PUBLISHED: ClassVar = {"train": 6_000, "val": 1_000, "test": 1_000}
    DESCRIPTION = "Flickr8k, 5 captions a photo, Karpathy split."
    HOMEPAGE = "https://cs.stanford.edu/people/karpathy/deepimagesent/"
    CITATION = "Hodosh, Young, Hockenmaier: Framing Image Description as a Ranking Task. JAIR 47, 2013."
