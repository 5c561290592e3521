"""Know a photo again: 64 bits of what is seen, of which a copy keeps nearly all and another photo half.

    bits = C > median(C),   C = D X D^T

X [32, 32] is the luminance of the whole picture squashed to a square, D [8, 32] the eight slowest waves of the discrete
cosine transform (DCT-II): the pHash of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions,
2010) in the form of `phash` of ImageHash 4.3. That package brings SciPy and PyWavelets for it, and decodes whole JPEGs;
decoded at a draft size, the hash is the same for 784 of 1,000 Flickr8k photos and never more than 4 bits away.

Of the 24.5 million pairs of 7,000 Flickr8k photos, two lie within MAX_DISTANCE: one photo under two names, and one pair
by chance; 25 lie within 10 bits. So, of pictures that are compared with 12,000, about one in 2,000 is taken for a copy
by chance. Found are all copies re-encoded, half or twice as large, grey, darker or cut by 2 %, 99 % of those 30 %
brighter and of those cut by 4 %, 91 % with COCO's full-size photos. A mirrored copy is not found.
"""

import numpy as np
from jaxtyping import Float, UInt64

from bridge_jax.data import image

MAX_DISTANCE = 8  # bits in which copies may differ
_SIDE, _WAVES = 32, 8
_POOLED = 4  # pixels a side that are averaged: a JPEG is decoded at 128 px or more, so that its draft is no matter
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's "L"


def _dct() -> Float[np.ndarray, "W S"]:
    return np.cos(np.pi * (np.arange(_SIDE) + 0.5) * np.arange(_WAVES)[:, None] / _SIDE)


def perceptual_hash(encoded: bytes) -> np.uint64:
    """Return the hash of an encoded image. Raises BrokenError where it cannot be decoded."""
    luminance = image.eval_view(encoded, _SIDE * _POOLED, squash=True) @ _LUMINANCE
    luminance = luminance.reshape(_SIDE, _POOLED, _SIDE, _POOLED).mean(axis=(1, 3))
    waves = np.round(_dct() @ luminance @ _dct().T, 3)  # what is flat is zero, not noise of rounding
    bits = np.packbits((waves > np.median(waves)).ravel())
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def nearest(hashes: UInt64[np.ndarray, "n"], one: np.uint64) -> tuple[int, int]:
    """Return which of `hashes`, of which there is at least one, is nearest to `one`, and in how many bits they differ.

    All are compared: 10 microseconds for 12,000, where decoding a photo takes milliseconds.
    """
    differing = np.bitwise_count(hashes ^ one)
    found = int(differing.argmin())
    return found, int(differing[found])
