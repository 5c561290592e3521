"""Encode pictures: as smaller JPEGs or WebPs to store, as WebP to show."""

import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bridge_jax.data import image

FORMATS = ("jpeg", "webp")
_LONGEST = {"jpeg": 65_500, "webp": 16_383}  # side in pixels that a format can have


class Stored(NamedTuple):
    """How pictures are stored: the shorter side in pixels (0: as they are), the quality and the format."""

    px: int = 0
    quality: int = 90
    format: str = FORMATS[0]  # one of FORMATS

    @property
    def metadata(self) -> dict[str, Any]:
        return {f"store_{name}": value for name, value in self._asdict().items()} if self.px else {}


def smaller(encoded: bytes, stored: Stored) -> bytes:
    """Return a picture whose shorter side has `stored.px`, upright and in sRGB, as a JPEG or WebP.

    One that is no larger stays as it is, and so does one whose longer side would be too long for the format. Raises
    BrokenError.
    """
    width, height = image.size(encoded)
    scale = stored.px / min(width, height)
    if scale >= 1 or max(width, height) * scale > _LONGEST[stored.format]:
        return encoded
    picture = _scaled(encoded, scale)
    if stored.format == "webp":
        return webp(np.asarray(picture), stored.quality)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=stored.quality)
    return content.getvalue()


def webp(pixels: UInt8[np.ndarray, "H W 3"], quality: int = 70) -> bytes:
    """Return a picture as a WebP file, the same bytes for the same pixels."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", quality=quality, method=4)
    return content.getvalue()


def thumbnail(encoded: bytes, side_px: int) -> bytes:
    """Return the whole picture, upright, as a WebP file whose longer side has at most `side_px`. Raises BrokenError."""
    width, height = image.size(encoded)
    scale = min(1.0, side_px / max(width, height))
    return webp(np.asarray(_scaled(encoded, scale)), quality=80)


def _scaled(encoded: bytes, scale: float) -> Image.Image:
    width, height = image.size(encoded)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image.decode(encoded, scale).resize(size, Image.Resampling.BICUBIC)
