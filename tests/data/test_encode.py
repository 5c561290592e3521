"""bridge_jax/data/encode.py: what is stored smaller shows what it showed, and a prepared set says so."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bridge_jax.config import ConfigError
from bridge_jax.data import encode, image, prepared
from bridge_jax.data.datasets import cc3m, folder
from bridge_jax.data.encode import Stored
from bridge_jax.data.records import open_splits
from tests.data.test_filters import tar
from tests.data.test_folder import ALL, listed
from tools import prepare_data


def photo(width, height, kind="JPEG", **settings):
    """A smooth picture with another colour in each corner."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([255 * down, 255 * across, 128 * (1 - down) * across], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **settings)
    return out.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return photo(400, 300, exif=exif)


@pytest.mark.parametrize("kind", encode.FORMATS)
@pytest.mark.parametrize(
    ("encoded", "size"),
    [
        (photo(400, 300), (128, 96)),
        (photo(300, 400, "PNG"), (96, 128)),
        (turned(), (96, 128)),
        (photo(97, 5000), (96, 4948)),
    ],
)
def test_the_shorter_side_is_as_asked_and_the_view_the_same(encoded, size, kind):
    small = encode.smaller(encoded, Stored(96, format=kind))
    with Image.open(io.BytesIO(small)) as opened:
        assert (opened.format, opened.size, opened.getexif().get(0x0112)) == (kind.upper(), size, None)
    views = [image.eval_view(each, 64).astype(int) for each in (encoded, small)]
    assert np.abs(views[0] - views[1]).max() <= 8


@pytest.mark.parametrize("kind", encode.FORMATS)
def test_what_is_no_larger_keeps_its_bytes_and_quality_has_its_price(kind):
    encoded = photo(96, 400, "PNG")
    assert encode.smaller(encoded, Stored(96, format=kind)) is encoded
    large = photo(400, 400)
    few, many = (len(encode.smaller(large, Stored(200, quality, kind))) for quality in (50, 95))
    assert few < many


@pytest.mark.parametrize(("kind", "length"), [("jpeg", 2 * 65_501), ("webp", 2 * 16_384)])
def test_what_is_too_long_for_the_format_keeps_its_bytes(kind, length):
    for longer in (length, length - 2):
        encoded = photo(longer, 4, "PNG")
        assert (encode.smaller(encoded, Stored(2, format=kind)) is encoded) == (longer == length)


def test_a_prepared_set_is_of_one_kind_and_says_which(tmp_path):
    raw = listed(tmp_path / "raw", range(3))
    for number in range(2):
        (raw / f"{number}.png").write_bytes(photo(40, 30, "PNG"))
    arguments = dict(raw_dir=str(raw), options=ALL)
    prepare_data.prepare("folder", str(tmp_path / "out"), stored=Stored(16), **arguments)
    where = prepared.folder(tmp_path / "out", folder.Builder)
    sizes = [image.size(record["image"]) for record in open_splits(where)["train"]]
    assert sorted(sizes) == [(8, 8), (21, 16), (21, 16)]
    said = prepare_data.prepare("folder", str(tmp_path / "out"), stored=Stored(16), **arguments)
    assert "is prepared already (train 3)" in said
    with pytest.raises(ConfigError, match=r"--store_px: .* was prepared with \{'store_px': 16, 'store_quality': 90, "):
        prepare_data.prepare("folder", str(tmp_path / "out"), stored=Stored(32), **arguments)
    with pytest.raises(ConfigError, match=r"'store_quality': 90, 'store_format': 'jpeg'\}; delete the folder"):
        prepare_data.prepare("folder", str(tmp_path / "out"), stored=Stored(16, format="webp"), **arguments)
    prepare_data.prepare("folder", str(tmp_path / "plain"), **arguments)
    with pytest.raises(ConfigError, match="was prepared with pictures as they are; delete the folder"):
        prepare_data.prepare("folder", str(tmp_path / "plain"), stored=Stored(16), **arguments)


def test_tars_are_stored_as_webp_and_their_fingerprint_tells(tmp_path):
    pictures = {str(number): (photo(60 + number, 50), ["a dog"]) for number in range(3)}
    raw, found = tar(tmp_path / "raw", "0.tar", pictures), {}
    for kind in encode.FORMATS:
        stored = Stored(25, format=kind)
        prepare_data.prepare("cc3m", str(tmp_path / kind), raw_dir=str(raw), stored=stored)
        where = prepared.folder(tmp_path / kind, cc3m.Builder)
        records = list(open_splits(where)["train"])
        assert {Image.open(io.BytesIO(record["image"])).format for record in records} == {kind.upper()}
        found[kind] = tfds.builder_from_directory(where).info.metadata
        assert found[kind]["store_format"] == kind
    assert found["jpeg"]["fingerprint"] != found["webp"]["fingerprint"]
