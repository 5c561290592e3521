"""Pictures as people have them: each is shown the same in training, evaluation, doctor and the exported processor."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from bridge_jax.data import image
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.encode import thumbnail
from bridge_jax.interop.torch_model.processing_bridge import BridgeImageProcessor
from tests import profiles
from tests.data.test_image import data_with

SIDE = 16


def encode(picture, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def views(encoded) -> list[np.ndarray]:
    """Return the whole picture as evaluation, training, a thumbnail and the exported processor show it."""
    data = data_with(squash=True, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    assert image.fault(encoded) == ""
    small = Image.open(io.BytesIO(thumbnail(encoded, 40))).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return [
        image.eval_view(encoded, SIDE, squash=True),
        image.train_view(encoded, SIDE, data, False, np.random.default_rng(0)),
        BridgeImageProcessor(SIDE, squash=True).square(encoded),
        np.asarray(small),
    ]


def assert_shown(encoded, expected) -> None:
    """Assert that every view shows the picture of the bytes `expected`; a thumbnail is compressed, and so near."""
    want = image.eval_view(expected, SIDE, squash=True).astype(int)
    *exact, small = views(encoded)
    for view in exact:
        np.testing.assert_array_equal(view, want)
    assert np.abs(small - want).mean() < 8


def square(colour, around=(255, 255, 255)) -> np.ndarray:
    """A picture of 40 x 40: a square of a colour with another colour around it."""
    pixels = np.full((40, 40, len(colour)), around, np.uint8)
    pixels[10:30, 10:30] = colour
    return pixels


def see_through(hidden, kind="RGBA") -> Image.Image:
    """A red square; around it everything is transparent, and `hidden` is the colour that nobody shall see."""
    pixels = Image.fromarray(square((255, 0, 0, 255), (*hidden, 0)))
    return pixels.convert(kind)


TRANSPARENT = {
    "black": encode(see_through((0, 0, 0))),
    "white": encode(see_through((255, 255, 255))),
    "webp": encode(see_through((0, 80, 0)), "WEBP", lossless=True, exact=True),
    "tiff": encode(see_through((0, 0, 255)), "TIFF"),
    "gif": encode(see_through((0, 0, 255)), "GIF"),
    "key": encode(Image.fromarray(square((255, 0, 0), (0, 0, 255))), transparency=(0, 0, 255)),
    "palette": encode(Image.fromarray(square((255, 0, 0), (0, 0, 255))).quantize(2), transparency=b"\xff\x00"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_hidden_colours_stay_hidden(name):
    assert_shown(TRANSPARENT[name], encode(Image.fromarray(square((255, 0, 0)))))
    assert image.look(TRANSPARENT[name]).transparent


@pytest.mark.parametrize("colours", ["LA", "L"])
def test_grey_shows_white_where_it_is_transparent(colours):
    grey = Image.fromarray(square((90,), (7,))[..., 0])
    alpha = Image.fromarray(square((255,), (0,))[..., 0])
    made = encode(Image.merge("LA", (grey, alpha))) if colours == "LA" else encode(grey, transparency=7)
    assert_shown(made, encode(Image.fromarray(square((90, 90, 90)))))


def test_half_transparent_is_half_white_and_opaque_is_untouched():
    half = Image.fromarray(square((255, 0, 0, 128), (0, 0, 255, 255)))
    assert_shown(encode(half), encode(Image.fromarray(square((255, 127, 127), (0, 0, 255)))))
    assert not image.look(encode(Image.new("RGB", (8, 8)))).transparent


@pytest.mark.parametrize("kind", ["EPS", "PCX", "ICNS", "SGI", "PDF"])
def test_only_formats_of_photos_are_opened(kind):
    encoded = encode(Image.new("RGB", (64, 64), "red"), kind)
    named = (
        "no picture in a format that is read" if kind == "PDF" else f"a file that looks like {kind}, which is not read"
    )
    assert image.fault(encoded).startswith(named)
    assert "JPEG, PNG" in image.fault(encoded)
    with pytest.raises(BrokenError, match=named):
        image.eval_view(encoded, SIDE)
    with pytest.raises(ValueError, match="expected a picture in one of the formats JPEG, PNG"):
        BridgeImageProcessor(SIDE).square(encoded)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "MPO"])
def test_the_formats_of_photos_are_read(kind):
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    more = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {}
    for view in views(encode(picture, kind, **more)):
        np.testing.assert_allclose(view.astype(int), np.broadcast_to((200, 30, 30), view.shape), atol=4)


def tag(kind: int, count: int, value: bytes) -> bytes:
    """Return EXIF whose only entry is an orientation of any type (1: BYTE, 2: ASCII, 3: SHORT, 4: LONG, 7: bytes)."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, count) + value.ljust(4, b"\0") + bytes(4)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3)).astype(np.uint8))
MEANINGLESS = {
    **{str(value): tag(3, 1, struct.pack("<H", value)) for value in (0, 9, 255, 65535)},
    "ascii": tag(2, 2, b"6"),
    "word": tag(2, 4, b"top"),
    "bytes": tag(7, 1, b"\x06"),
    "long": tag(4, 1, struct.pack("<I", 1 << 31)),
    "cut": tag(3, 1, b"\x06")[:20],
}


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("name", MEANINGLESS)
def test_an_orientation_that_means_nothing_is_upright(name):
    encoded, plain = (encode(NOISE, "JPEG", quality=95, **more) for more in ({"exif": MEANINGLESS[name]}, {}))
    assert_shown(encoded, plain)
    assert not image.look(encoded).turned
    crops = [image.train_view(e, SIDE, data_with(), False, np.random.default_rng(1)) for e in (encoded, plain)]
    np.testing.assert_array_equal(*crops)
    np.testing.assert_array_equal(BridgeImageProcessor(SIDE).square(encoded), image.eval_view(plain, SIDE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    options = lossless.get(kind, {"quality": 100} if kind == "JPEG" else {})
    turned, plain = encode(NOISE, kind, exif=exif.tobytes(), **options), encode(NOISE, kind, **options)
    flips = {2: np.s_[:, ::-1], 3: np.s_[::-1, ::-1], 4: np.s_[::-1], 5: np.s_[:], 6: np.s_[:, ::-1]}
    flips |= {7: np.s_[::-1, ::-1], 8: np.s_[::-1]}
    pixels = image.eval_view(plain, SIDE, squash=True)
    pixels = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    assert image.size(turned) == ((30, 60) if orientation >= 5 else (60, 30))
    assert image.look(turned).turned == (orientation > 1)
    *exact, _ = views(turned)
    for view in exact:
        np.testing.assert_allclose(view.astype(int), pixels[flips.get(orientation, np.s_[:])], atol=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_are_converted_by_the_profile_and_not_by_its_name(kind):
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ((200, 30, 30), (30, 30, 200)))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = views(encode(red, kind, icc_profile=profiles.exchanged(named="sRGB"), **options))
    for view in found:
        np.testing.assert_allclose(view.astype(int), np.broadcast_to((30, 30, 200), view.shape), atol=5)
    assert_shown(encode(blue, icc_profile=profiles.srgb()), encode(blue))


def test_grey_has_profiles_too():
    encoded = encode(Image.new("L", (40, 40), 55), icc_profile=profiles.linear_grey())  # 55 / 255 of the light
    light = 1.055 * (55 / 255) ** (1 / 2.4) - 0.055  # the curve of sRGB
    for view in views(encoded):
        np.testing.assert_allclose(view.astype(int), 255 * light, atol=3)


def test_profiles_are_counted():
    red = Image.new("RGB", (40, 40), (200, 30, 30))
    looks = {
        name: image.look(encode(red, icc_profile=profile))
        for name, profile in {"none": None, "srgb": profiles.srgb(), "other": profiles.exchanged()}.items()
    }
    looks |= {"broken": image.look(encode(red, icc_profile=b"no profile"))}
    looks |= {"of_grey": image.look(encode(red, icc_profile=profiles.linear_grey()))}
    looks |= {"grey_in_srgb": image.look(encode(red.convert("L"), icc_profile=profiles.srgb()))}
    assert [name for name, look in looks.items() if look.profile] == ["other"]
    assert [name for name, look in looks.items() if look.broken_profile] == ["broken", "of_grey"]
    assert not any(look.fault for look in looks.values())


def test_a_transparent_picture_is_on_white_in_its_own_colours():
    encoded = encode(see_through((0, 255, 0)), icc_profile=profiles.exchanged())
    for view in views(encoded)[:3]:
        np.testing.assert_allclose(view[0, 0].astype(int), (255, 255, 255), atol=2)
        np.testing.assert_allclose(view[8, 8].astype(int), (0, 0, 255), atol=2)
