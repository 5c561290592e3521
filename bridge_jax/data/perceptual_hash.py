"""Recognise copies of a photo by 64 bits of its look: a copy keeps nearly all of them, another photo half.

    bits = C > median(C),   C = D X D^T

X [32, 32] is the luminance of the whole picture squashed to a square, D [8, 32] the eight slowest waves of the discrete
cosine transform (DCT-II): the pHash of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions,
2010) as `phash` of ImageHash 4.3 computes it. That package needs SciPy and PyWavelets, and decodes whole JPEGs. Here
they are decoded at a draft size: the hash is the same for 784 of 1,000 Flickr8k photos and differs in at most 4 bits.

Among the 24.5 million pairs of 7,000 Flickr8k photos, two pairs lie within MAX_DISTANCE: one photo under two names, and
one pair by chance; 25 pairs lie within 10 bits. So a picture compared with 12,000 others is taken for a copy by chance
about once in 2,000. The hash finds all copies that are re-encoded, half or twice as large, grey, darker or cut by 2 %,
and 99 % of copies 30 % brighter and of copies cut by 4 % (91 % with COCO's full-size photos). It finds no mirrored
copy.
"""

import numpy as np
from jaxtyping import Float, UInt64

from bridge_jax.data import image

MAX_DISTANCE = 8  # bits in which copies may differ
_SIDE, _WAVES = 32, 8
_POOLED = 4  # side of the blocks averaged: a JPEG is decoded at 128 px or more, so its draft size does not matter
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's "L"


def _dct() -> Float[np.ndarray, "W S"]:
    return np.cos(np.pi * (np.arange(_SIDE) + 0.5) * np.arange(_WAVES)[:, None] / _SIDE)


def perceptual_hash(encoded: bytes) -> np.uint64:
    """Return the hash of an encoded image. Raises BrokenError where it cannot be decoded."""
    luminance = image.eval_view(encoded, _SIDE * _POOLED, squash=True) @ _LUMINANCE
    luminance = luminance.reshape(_SIDE, _POOLED, _SIDE, _POOLED).mean(axis=(1, 3))
    waves = np.round(_dct() @ luminance @ _dct().T, 3)  # a flat picture gives zeros, not rounding noise
    bits = np.packbits((waves > np.median(waves)).ravel())
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def nearest(hashes: UInt64[np.ndarray, "n"], one: np.uint64) -> tuple[int, int]:
    """Return the index of the hash nearest to `one`, and the number of bits in which they differ.

    `hashes` holds at least one. All are compared, in 10 microseconds for 12,000; decoding a photo takes milliseconds.
    """
    differing = np.bitwise_count(hashes ^ one)
    index = int(differing.argmin())
    return index, int(differing[index])
