"""Urban1k: 1,000 photos of streets, each with one caption of some 100 words that GPT-4V wrote; to evaluate on.

The layout is the one that the benchmark's own score reads: eval/retrieval/Urban1k.py of
https://github.com/beichenzbc/Long-CLIP.
"""

from pathlib import Path
from typing import ClassVar

from bridge_jax.config import ConfigError
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `caption/NAME.txt`, and the photo of each in `image/NAME.jpg`, as `Urban1k.zip` unpacks them.

    The first line of a text is the caption, as in the benchmark's score. All of it is one split, `test`. The id of a
    photo is its place among the sorted names.
    """

    name = "urban1k"
    LONG = True
    PUBLISHED: ClassVar = {"test": 1_000}
    DESCRIPTION = "Urban1k, the long-caption retrieval benchmark of Long-CLIP: one caption a photo."
    HOMEPAGE = "https://huggingface.co/datasets/BeichenZhang/Urban1k"
    CITATION = "Zhang et al.: Long-CLIP: Unlocking the Long-Text Capability of CLIP. ECCV, 2024. arXiv 2403.15378."

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return the photos of `test`. Raises ConfigError where there are no captions."""
        texts = sorted((raw / "caption").glob("*.txt"))
        if not texts:
            raise ConfigError(f"--raw_dir: no caption/*.txt in {raw}; fetch Urban1k.zip from {cls.HOMEPAGE}")
        photos = [
            Photo(raw / "image" / f"{file.stem}.jpg", number, (_first_line(file),)) for number, file in enumerate(texts)
        ]
        photo_builder.check({"test": photos}, raw / "caption", refuse)
        return {"test": photos}


def _first_line(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].strip()
