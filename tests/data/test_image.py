"""Oracles: Pillow's own full decode, hand-made pictures of known colours, and statistics of many draws."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from bridge_jax import config
from bridge_jax.data import augment, image
from bridge_jax.data.broken import BrokenError
from configs import shapes as shapes_config


def data_with(**changes) -> config.Data:
    settings = shapes_config.get_config()
    settings.vision.patch_px, settings.vision.position_grid, settings.text.length = 8, 8, 24  # as these tests count
    settings.data.update(changes)
    return config.parse(settings).data


def encode(picture, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, **({"format": "PNG"} | options))
    return out.getvalue()


def smooth(width, height) -> Image.Image:
    """A picture without fine detail: red grows to the right, green downwards, blue stays."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 700), (50, 40)])
def test_eval_view_is_the_centre_square(width, height):
    picture = smooth(width, height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    expected = picture.resize((96, 96), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    np.testing.assert_array_equal(image.eval_view(encode(picture), 96), np.asarray(expected))


def test_draft_decoding_is_used_and_hardly_shows(monkeypatch):
    encoded = encode(smooth(1600, 1200), format="JPEG", quality=95)
    drafted = image.eval_view(encoded, 96)
    asked = []  # by this thread: those of a pipeline that another test left may decode still
    draft = "PIL.JpegImagePlugin.JpegImageFile.draft"
    monkeypatch.setattr(draft, lambda self, mode, size: asked.append((threading.get_ident(), size)))
    full = image.eval_view(encoded, 96)
    assert [size for thread, size in asked if thread == threading.get_ident()] == [(128, 96)]
    assert np.abs(drafted.astype(int) - full).max() <= 3


def test_draft_never_leaves_less_than_the_view_needs():
    encoded = encode(smooth(801, 601), format="JPEG")
    for px in (75, 76, 150, 151, 301, 700):
        decoded = image.decode(encoded, px / 601)
        assert min(decoded.size) >= min(px, 601)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(orientation):
    upright = smooth(320, 160)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # transpositions that store it turned
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(stored, format="JPEG", quality=95, exif=exif)
    np.testing.assert_array_equal(image.size(encoded), ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).size)
    assert image.size(encoded) == (320, 160)
    plain = image.eval_view(encode(upright, format="JPEG", quality=95), 80)
    assert np.abs(image.eval_view(encoded, 80).astype(int) - plain).mean() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new("RGB", (40, 30), (200, 200, 200)).convert(mode)
    view = image.eval_view(encode(picture, format="TIFF" if mode == "CMYK" else "PNG"), 16)
    assert view.shape == (16, 16, 3)
    assert view.dtype == np.uint8
    assert np.ptp(view.reshape(-1, 3).mean(axis=0)) < 3  # grey stays grey


def test_a_look_says_what_the_header_says():
    def looked(mode, **options):
        out = io.BytesIO()
        Image.new(mode, (40, 30)).save(out, "JPEG", **options)
        return image.look(out.getvalue())

    exif = Image.Exif()
    exif[0x0112] = 2
    assert looked("RGB") == image.Look("")
    assert looked("L") == image.Look("", grey=True)
    assert looked("CMYK", exif=exif) == image.Look("", cmyk=True, turned=True)


def test_a_broken_file_is_an_error_and_a_fault():
    encoded = encode(smooth(400, 300), format="JPEG")
    assert image.fault(encoded) == ""
    for broken in (encoded[: len(encoded) // 2], b"", b"no picture at all", encode(smooth(400, 300))[:-2000]):
        assert image.fault(broken)
        with pytest.raises(BrokenError):
            image.eval_view(broken, 32)


def test_train_view_is_a_pure_function_of_the_generator():
    encoded, data = encode(smooth(200, 150)), data_with(crop_area=(0.3, 1.0), flip=True, randaugment_layers=2)
    views = [image.train_view(encoded, 48, data, True, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (48, 48, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_the_flip_mirrors_half_of_the_pictures_and_none_it_may_not():
    encoded, whole = encode(smooth(64, 64)), {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}

    def mirrored(data, may_flip):
        views = [image.train_view(encoded, 64, data, may_flip, np.random.default_rng(seed)) for seed in range(200)]
        return np.mean([view[0, 0, 0] > view[0, -1, 0] for view in views])

    assert 0.35 < mirrored(data_with(flip=True, **whole), True) < 0.65
    assert mirrored(data_with(flip=True, **whole), False) == 0
    assert mirrored(data_with(flip=False, **whole), True) == 0


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a dog", "two cats"], True),
        (["a dog", "a man on the Left side"], False),
        (["RIGHT: a car"], False),
        (["the left-hand door"], False),
        (["bright lights", "leftover food", "an upright piano"], True),
        ([], True),
    ],
)
def test_may_flip(captions, expected):
    assert image.may_flip(captions) is expected


def test_random_crops_keep_within_picture_area_and_ratio():
    generator, area, ratio = np.random.default_rng(0), (0.2, 0.6), (0.75, 4 / 3)
    shares = []
    for _ in range(500):
        left, top, width, height = image.random_crop(500, 400, area, ratio, generator)
        assert left >= 0
        assert top >= 0
        assert left + width <= 500
        assert top + height <= 400
        assert ratio[0] - 0.02 < width / height < ratio[1] + 0.02
        shares.append(width * height / 200_000)
    assert area[0] - 0.01 < min(shares) < 0.23
    assert 0.57 < max(shares) < area[1] + 0.01
    assert abs(np.mean(shares) - 0.4) < 0.03


def test_a_crop_that_cannot_fit_is_the_largest_centre_crop():
    box = image.random_crop(1000, 10, (0.9, 1.0), (0.75, 4 / 3), np.random.default_rng(0))
    assert box == pytest.approx((500 - 20 / 3, 0, 40 / 3, 10))


def test_a_drafted_train_crop_shows_the_same_region_as_a_full_one():
    picture, data = smooth(1200, 900), data_with(crop_area=(0.3, 1.0))
    jpeg, png = encode(picture, format="JPEG", quality=95), encode(picture)
    for seed in range(5):
        one, other = (image.train_view(e, 64, data, False, np.random.default_rng(seed)) for e in (jpeg, png))
        assert np.abs(one.astype(int) - other).mean() < 3


def test_rand_augment_keeps_colours_and_does_nothing_without_layers():
    shade = np.linspace(0.4, 1.0, 32)[:, None, None] * np.ones((1, 32, 1))
    pixels = (shade * (200, 120, 60)).astype(np.uint8)  # a shaded orange: stretched channel by channel it turns grey
    for seed in range(80):
        out = augment.rand_augment(pixels, 1, 10, np.random.default_rng(seed))
        red, green, blue = out[10:22, 10:22].reshape(-1, 3).mean(axis=0)
        assert red > green + 3
        assert green > blue + 3
    np.testing.assert_array_equal(augment.rand_augment(pixels, 0, 10, np.random.default_rng(0)), pixels)


def test_rand_augment_grows_with_its_magnitude():
    pixels = np.asarray(smooth(64, 64))

    def change(magnitude):
        views = [augment.rand_augment(pixels, 2, magnitude, np.random.default_rng(s)) for s in range(60)]
        return np.mean([np.abs(view.astype(int) - pixels).mean() for view in views])

    assert change(1) < change(5) < change(10)


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def bomb(width, height):
    """A valid PNG header that promises more than it holds."""
    whole = encode(Image.new("1", (1, 1)))
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return whole[:8] + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + whole[33:]


JPEG, PNG = encode(noise(64, 48), format="JPEG"), encode(noise(64, 48))
SIXTEEN_BITS = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (48, 64)).astype(np.uint16))
FRAMES = [noise(64, 48), smooth(64, 48)]


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x00" * 1000,
        b"GIF89a",
        b"<html>404 Not Found</html>",
        b"\xff\xd8\xff",
        JPEG[:100],
        JPEG[: len(JPEG) // 2],
        JPEG[:-200],
        PNG[:30],
        PNG[: len(PNG) // 2],
        PNG[:2000] + bytes([PNG[2000] ^ 255]) + PNG[2001:],
        encode(SIXTEEN_BITS),
        encode(SIXTEEN_BITS, format="TIFF"),
        encode(noise(8, 8).convert("F"), format="TIFF"),
        bomb(20_000, 20_000),
        bomb(100_000, 100_000),
        encode(Image.new("1", (20_000, 4_001))),
        encode(noise(8, 8), format="BMP")[:60],
        encode(noise(64, 48), format="WEBP")[:200],
        encode(noise(64, 48), format="GIF")[:400],
    ],
)
def test_a_picture_that_cannot_be_trusted_has_a_fault(encoded):
    assert image.fault(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        encode(noise(64, 48, "CMYK"), format="JPEG"),
        encode(noise(64, 48, "L"), format="JPEG"),
        encode(noise(64, 48), format="JPEG", progressive=True),
        encode(noise(64, 48, "P")),
        encode(noise(64, 48, "P"), transparency=3),
        encode(noise(64, 48, "P"), transparency=b"\x00" * 200),
        encode(noise(64, 48, "LA")),
        encode(noise(64, 48, "RGBA")),
        encode(noise(64, 48, "1")),
        encode(noise(64, 48), format="GIF", save_all=True, append_images=FRAMES),
        encode(noise(64, 48), format="WEBP", save_all=True, append_images=FRAMES),
        encode(noise(64, 48), format="PNG", save_all=True, append_images=FRAMES),
        encode(noise(64, 48), format="TIFF", save_all=True, append_images=FRAMES),
        encode(noise(64, 48), format="BMP"),
        encode(noise(64, 48), format="JPEG2000"),
        encode(noise(1, 1)),
        encode(noise(1, 1), format="JPEG"),
        encode(noise(1, 300), format="JPEG"),
        encode(noise(2000, 1)),
        encode(Image.new("1", (20_000, 2_000))),
    ],
)
def test_an_odd_picture_without_a_fault_becomes_a_view(encoded):
    assert image.fault(encoded) == ""
    data = data_with(randaugment_layers=2)
    for view in (image.eval_view(encoded, 16), image.train_view(encoded, 16, data, True, np.random.default_rng(0))):
        assert (view.shape, view.dtype) == ((16, 16, 3), np.uint8)


def test_truncated_pictures_are_never_filled_up():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(BrokenError, match="truncated"):
        image.eval_view(JPEG[: len(JPEG) // 2], 16)


@pytest.mark.parametrize(("width", "height"), [(400, 100), (60, 90)])
def test_squashed_is_the_whole_picture(width, height):
    """At evaluation, and in training where the crop is the whole; a smaller crop is one of the squashed picture."""
    picture = smooth(width, height)
    expected = np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)
    encoded = encode(picture)
    np.testing.assert_array_equal(image.eval_view(encoded, 48, squash=True), expected)
    whole = data_with(squash=True, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    draw = np.random.default_rng(0)
    np.testing.assert_array_equal(image.train_view(encoded, 48, whole, False, draw), expected)
    quarter = data_with(squash=True, crop_area=(0.25, 0.25), crop_ratio=(1.0, 1.0), flip=False)
    for seed in range(5):
        red, green, _ = image.train_view(encoded, 48, quarter, False, np.random.default_rng(seed)).astype(int).T
        assert abs(np.ptp(red) - 255 / 2) < 8  # half of the width, whatever it is, and half of the height
        assert abs(np.ptp(green) - 255 / 2) < 8
