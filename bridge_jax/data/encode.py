"""Encode pictures: as smaller JPEGs to store, as WebP to show."""

import io
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bridge_jax.data import image


class Stored(NamedTuple):
    """How pictures are stored: the shorter side in pixels (0: as they are), and the quality of the JPEG."""

    px: int = 0
    quality: int = 90

    @property
    def metadata(self) -> dict[str, Any]:
        return {"store_px": self.px, "store_quality": self.quality} if self.px else {}


def smaller(encoded: bytes, stored: Stored) -> bytes:
    """Return a picture whose shorter side has `stored.px`, upright and in sRGB, as a JPEG.

    One that is no larger stays as it is. Raises BrokenError.
    """
    width, height = image.size(encoded)
    scale = stored.px / min(width, height)
    if scale >= 1:
        return encoded
    content = io.BytesIO()
    _scaled(encoded, scale).save(content, "JPEG", quality=stored.quality)
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
