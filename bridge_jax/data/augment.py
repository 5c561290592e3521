"""RandAugment: random operations on a training view that keep what its caption says."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

_FILL = (128, 128, 128)  # shown outside the picture


def rand_augment(
    pixels: UInt8[np.ndarray, "H W 3"], layers: int, magnitude: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Apply `layers` operations drawn uniformly, each at `magnitude` 0..10 (RandAugment, arXiv 1909.13719).

    Captions name colours, so no operation changes a hue. Color, Posterize, Solarize and Invert are left out, as in
    ALBEF and BLIP. Unlike theirs, AutoContrast and Equalize work on the luminance: channel by channel they would tint
    the picture. Geometric operations never mirror.
    """
    image = Image.fromarray(pixels)
    for _ in range(layers):
        operation = _OPERATIONS[generator.integers(len(_OPERATIONS))]
        sign = 1.0 if generator.random() < 0.5 else -1.0
        image = operation(image, sign * magnitude / 10)
    return np.asarray(image)


def _equalize(image: Image.Image) -> Image.Image:
    luminance, *chroma = image.convert("YCbCr").split()
    return Image.merge("YCbCr", (ImageOps.equalize(luminance), *chroma)).convert("RGB")


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_FILL)


_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (  # the level lies in -1..1
    lambda image, level: image,
    lambda image, level: ImageOps.autocontrast(image, preserve_tone=True),
    lambda image, level: _equalize(image),
    lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
    lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level),
    lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
    lambda image, level: image.rotate(30 * level, Image.Resampling.BILINEAR, fillcolor=_FILL),
    lambda image, level: _affine(image, (1, 0.3 * level, 0, 0, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0, 0.3 * level, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0.1 * level * image.width, 0, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0, 0, 1, 0.1 * level * image.height)),
)
