"""Colour profiles for the tests."""

import struct

from PIL import ImageCms


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged(named: str = "swap") -> bytes:
    """Return sRGB with red and blue exchanged, under a name of four letters: red in it is blue."""
    swapped = srgb().replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), named.encode("utf-16-be"))


def linear_grey() -> bytes:
    """Return a profile for greyscale pictures whose numbers are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + struct.pack(">IIH", 0, 1, 256) + bytes(2)
    named = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    named += bytes(-len(named) % 4)
    tags, at, body = b"", 128 + 4 + 3 * 12, b""
    for name, content in ((b"wtpt", white), (b"kTRC", curve), (b"desc", named)):
        tags += name + struct.pack(">II", at + len(body), len(content))
        body += content
    start = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    start += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return start.ljust(128, b"\0") + struct.pack(">I", 3) + tags + body
