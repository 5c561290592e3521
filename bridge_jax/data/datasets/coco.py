"""COCO captions with Karpathy's split: 113,287 train photos (restval included), 5,000 val, 5,000 test."""

from typing import ClassVar

from bridge_jax.data.datasets import karpathy


class Builder(karpathy.Builder, skip_registration=True):
    """Raw folder: `train2014/*.jpg`, `val2014/*.jpg` and `dataset_coco.json`; the image id is COCO's own."""

    name = "coco"
    ANNOTATIONS = "dataset_coco.json"
    IMAGE_DIRS = (".",)  # the JSON's `filepath` names the year folder
    PUBLISHED: ClassVar = {"train": 113_287, "val": 5_000, "test": 5_000}
    DESCRIPTION = "COCO 2014 captions, Karpathy split; restval is part of train."
    HOMEPAGE = "https://cocodataset.org/"
    CITATION = "Chen et al.: Microsoft COCO Captions: Data Collection and Evaluation Server. arXiv 1504.00325, 2015."
