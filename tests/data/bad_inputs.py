"""Pictures and captions that a data set of photos may hold, and whether they can be used."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_jax.data import image, text
from bridge_jax.data.datasets import photo_records
from tools import prepare_data


def picture(width=64, height=48, mode="RGB", seed=0) -> Image.Image:
    """Noise, which no decoder gets right by chance."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(found: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    found.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture(), "JPEG", exif=exif)


def bomb(width: int, height: int) -> bytes:
    """A valid PNG header that promises more than it holds."""
    whole = encode(Image.new("1", (1, 1)), "PNG")
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return whole[:8] + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + whole[33:]


JPEG, PNG, GIF, WEBP = (encode(picture(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
FRAMES = [picture(seed=seed) for seed in (1, 2)]
SIXTEEN_BITS = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (48, 64)).astype(np.uint16))

BROKEN_PICTURES = {
    "truncated_half.jpg": JPEG[: len(JPEG) // 2],
    "truncated_end.jpg": JPEG[:-200],
    "truncated_header.jpg": JPEG[:100],
    "truncated_first_bytes.jpg": JPEG[:3],
    "truncated_half.png": PNG[: len(PNG) // 2],
    "truncated_header.png": PNG[:30],
    "truncated.gif": GIF[: len(GIF) // 3],
    "truncated.webp": WEBP[: len(WEBP) // 3],
    "flipped_byte.png": PNG[:2000] + bytes([PNG[2000] ^ 255]) + PNG[2001:],
    "empty.jpg": b"",
    "zero_bytes.jpg": b"\x00" * 1000,
    "html_not_found.jpg": b"<html>404 Not Found</html>",
    "text.jpg": b"a photo of a dog",
    "archive.jpg": b"PK\x03\x04" + b"\x00" * 60,
    "sixteen_bits.png": encode(SIXTEEN_BITS, "PNG"),
    "sixteen_bits.tif": encode(SIXTEEN_BITS, "TIFF"),
    "floats.tif": encode(picture().convert("F"), "TIFF"),
    "bomb_20000.png": bomb(20_000, 20_000),
    "bomb_100000.png": bomb(100_000, 100_000),
    "bomb_of_rows.png": bomb(1, 2**31 - 1),
    "pixels_20000.png": encode(Image.new("1", (20_000, 4_001)), "PNG"),
}
ODD_PICTURES = {
    "png_called.jpg": PNG,
    "webp_called.jpg": WEBP,
    "jpeg_called.png": JPEG,
    "no_extension": JPEG,
    "cmyk.jpg": encode(picture(mode="CMYK"), "JPEG"),
    "cmyk.tif": encode(picture(mode="CMYK"), "TIFF"),
    "palette.png": encode(picture(mode="P"), "PNG"),
    "palette_transparent.png": encode(picture(mode="P"), "PNG", transparency=3),
    "grey.jpg": encode(picture(mode="L"), "JPEG"),
    "grey_alpha.png": encode(picture(mode="LA"), "PNG"),
    "alpha.png": encode(picture(mode="RGBA"), "PNG"),
    "one_bit.png": encode(picture(mode="1"), "PNG"),
    "progressive.jpg": encode(picture(), "JPEG", progressive=True),
    "animated.gif": encode(picture(), "GIF", save_all=True, append_images=FRAMES),
    "animated.webp": encode(picture(), "WEBP", save_all=True, append_images=FRAMES),
    "animated.png": encode(picture(), "PNG", save_all=True, append_images=FRAMES),
    **{f"exif_{orientation}.jpg": turned(orientation) for orientation in (3, 6, 8)},
    "one_pixel.png": encode(picture(1, 1), "PNG"),
    "one_pixel.jpg": encode(picture(1, 1), "JPEG"),
    "one_column.jpg": encode(picture(1, 300), "JPEG"),
    "pixels_20000_narrow.png": encode(Image.new("1", (20_000, 2_000)), "PNG"),
}
BROKEN_CAPTIONS = {
    "caption_empty.jpg": b"",
    "caption_of_spaces.jpg": b" \t\n ",
    "caption_of_zero_width.jpg": "\u200b\u200d".encode(),
    "caption_100000.jpg": b"dog " * 25_000,
    "caption_one_word_100000.jpg": b"d" * 100_000,
    "caption_nul.jpg": b"a dog\x00",
    "caption_escape.jpg": b"a \x1b[31mred\x1b[0m dog",
    "caption_bell.jpg": b"\x07\x07\x07",
    "caption_c1_control.jpg": "a\u0085dog".encode(),
    "caption_latin1.jpg": "a caf\xe9".encode("latin1"),
    "caption_utf16.jpg": "a dog".encode("utf-16"),
    "caption_cut_utf8.jpg": "a café".encode()[:-1],
    "caption_replaced.jpg": "a caf\ufffd".encode(),
}
ODD_CAPTIONS = {
    "caption_newline.jpg": b"a dog\r\n\twith a ball",
    "caption_chinese.jpg": "一只狗".encode(),
    "caption_emoji.jpg": "a dog 🐕‍🦺".encode(),
    "caption_long.jpg": b"a dog and " * 200,
    "caption_of_marks.jpg": b"?!",
}
BROKEN, ODD = {**BROKEN_PICTURES, **BROKEN_CAPTIONS}, {**ODD_PICTURES, **ODD_CAPTIONS}


def raw_folder(folder: Path, good: int, names: dict[str, bytes], held_out: int = 1) -> Path:
    """Write `good` photos and those of `names` for train, and `held_out` good ones for val, as Flickr8k has them."""
    (folder / "images").mkdir(parents=True)
    entries = []
    good_names = [*(f"held_out_{i}.jpg" for i in range(held_out)), *(f"good_{i}.jpg" for i in range(good))]
    for name in [*good_names, *names]:
        of_captions = name.startswith("caption")
        encoded = encode(picture(seed=len(entries)), "JPEG") if of_captions or name not in names else names[name]
        (folder / "images" / name).write_bytes(encoded)
        # what JSON cannot hold arrives as what a careless reader makes of it
        caption = names[name].decode(errors="surrogateescape") if of_captions else "a red dog"
        split = "val" if name.startswith("held_out") else "train"
        entries.append({"filename": name, "imgid": len(entries), "split": split, "sentences": [{"raw": caption}]})
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    return folder


def prepare_unchecked(data_dir: Path, raw_dir: Path) -> None:
    """Prepare a raw folder with all that is broken in it, as if it broke afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "fault", lambda encoded: "")
        patch.setattr(text, "fault", lambda caption: "")
        patch.setattr(photo_records, "record", _as_bytes(photo_records.record))
        prepare_data.prepare("flickr8k", str(data_dir), raw_dir=str(raw_dir))


def _as_bytes(record):
    def made(photo, encoded):
        kept = record(photo, encoded)
        return kept | {"captions": [caption.encode(errors="surrogateescape") for caption in photo.captions]}

    return made
