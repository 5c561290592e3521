"""bridge_jax/data/image.py on the photos of phones: HEIC, rotated, with a colour profile, with a day."""

import io
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from bridge_jax.data import image
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.encode import thumbnail
from tests import profiles

RED, BLUE = (200, 30, 30), (30, 30, 200)
EXIF_IFD, TAKEN, ROTATED = 0x8769, 0x9003, 0x0112


def encode(picture, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, **options)
    return out.getvalue()


def two_halves() -> Image.Image:
    """A picture of 60 x 40, red on the left and blue on the right."""
    return Image.fromarray(np.repeat(np.uint8([[RED, BLUE]]), 30, axis=1).repeat(40, axis=0))


def exif(**tags) -> Image.Exif:
    made = Image.Exif()
    made[ROTATED] = tags.get("rotated", 1)
    made.get_ifd(EXIF_IFD)[TAKEN] = tags.get("taken", "2021:05:04 10:00:00")
    return made


@pytest.mark.parametrize("kind", ["HEIF", "JPEG"])
def test_a_rotated_photo_is_shown_upright(kind):
    pillow_heif.register_heif_opener()
    encoded = encode(two_halves(), format=kind, exif=exif(rotated=6).tobytes(), quality=95)  # a quarter to the right
    assert image.size(encoded) == (40, 60)
    view = image.eval_view(encoded, 8, squash=True).astype(int)
    np.testing.assert_allclose(view[0, 4], RED, atol=8)
    np.testing.assert_allclose(view[-1, 4], BLUE, atol=8)
    small = Image.open(io.BytesIO(thumbnail(encoded, 30)))
    assert (small.format, small.size) == ("WEBP", (20, 30))
    assert image.fault(encoded) == ""
    assert image.taken(encoded) == "2021-05-04"


def test_heic_without_its_extra_is_a_fault_that_says_so(monkeypatch):
    encoded = encode(two_halves(), format="HEIF")
    image._read_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BrokenError, match=r"a HEIC picture, which pip install 'bridge_jax\[heic\]' makes readable"):
        image.eval_view(encoded, 8)


@pytest.mark.parametrize("taken", ["", "0000:00:00 00:00:00", "yesterday", "2021:13:01 00:00:00"])
def test_a_photo_without_a_day_has_none(taken):
    assert image.taken(encode(two_halves(), format="JPEG", exif=exif(taken=taken).tobytes())) == ""
    assert image.taken(b"no picture") == ""


def test_colours_of_another_profile_are_converted():
    picture = two_halves()
    plain, same, exchanged, broken = (
        image.eval_view(encode(picture, format="PNG", icc_profile=profile), 8, squash=True).astype(int)
        for profile in (None, profiles.srgb(), profiles.exchanged(), b"no profile")
    )
    np.testing.assert_array_equal(same, plain)
    np.testing.assert_array_equal(broken, plain)
    np.testing.assert_allclose(exchanged[4, 0], BLUE, atol=4)
    np.testing.assert_allclose(exchanged[4, -1], RED, atol=4)
