"""SugarCrepe++: two captions of a photo with one meaning, and a wrong one whose words are nearly those of the first."""

from typing import ClassVar

from bridge_jax.data.datasets import sugarcrepe


class Builder(sugarcrepe.Builder, skip_registration=True):
    """Raw folder: the official `sugarcrepe_pp/*.json`, and COCO's photos in `val2017/`. The one split is `test`."""

    name = "sugarcrepe_pp"
    RIGHT: ClassVar = ("caption", "caption2")
    DESCRIPTION = "SugarCrepe++: two captions of a photo of COCO val2017 with one meaning, and a hard negative."
    HOMEPAGE = "https://github.com/Sri-Harsha/scpp"
    CITATION = (
        "Dumpala et al.: SUGARCREPE++ Dataset: Vision-Language Model Sensitivity to Semantic and Lexical Alterations. "
        "NeurIPS, 2024."
    )
