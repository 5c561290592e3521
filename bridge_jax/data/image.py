"""Turn the bytes of an image file into the uint8 square that a tower sees. The model itself normalises it.

JPEGs are decoded at a draft size: libjpeg leaves out the frequencies that the resize would drop, and the picture keeps
at least the resolution that the view needs. EXIF orientation and colour profiles are respected. An image that cannot be
decoded to its end, or should not be, raises BrokenError.
"""

import contextlib
import functools
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError

from bridge_jax import config
from bridge_jax.data import augment
from bridge_jax.data.broken import BrokenError

MAX_PIXELS = 80_000_000  # below Pillow's own limit for warnings; COCO's largest picture has 0.4 million
# The formats of photos. Pillow opens others too, and would run Ghostscript on an EPS that is named photo.jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {  # EXIF's orientation -> the turn that shows a picture upright; any other value means nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_IFD, _TAKEN, _CHANGED = 0x8769, 0x9003, 0x0132  # EXIF tags: a table, and in it DateTimeOriginal; DateTime
_DAY = re.compile(r"([12]\d{3})[:-](0[1-9]|1[0-2])[:-](0[1-9]|[12]\d|3[01])\b")
_HEIF = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")}
_SIDE_WORDS = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_CROP_TRIES = 10


class OversizedError(BrokenError):
    """A picture has more than MAX_PIXELS."""


class Look(NamedTuple):
    """The properties of an encoded image: why it cannot be used (empty: it can), and facts from its header."""

    fault: str
    oversized: bool = False
    grey: bool = False
    cmyk: bool = False
    turned: bool = False  # EXIF has it shown rotated or mirrored
    transparent: bool = False
    profile: bool = False  # its colours are converted to sRGB
    broken_profile: bool = False  # its colours are taken for sRGB


def fault(encoded: bytes) -> str:
    """Return the fault of an encoded image, or an empty string where it decodes to its end."""
    return look(encoded).fault


def look(encoded: bytes) -> Look:
    """Decode an image to its end and return its properties.

    The smallest draft size is enough: libjpeg has to read the whole file for it.
    """
    properties = Look("")
    try:
        with _opened(encoded) as image:
            turned = _turn(image) is not None
            grey, cmyk = image.mode in ("1", "L", "LA"), image.mode == "CMYK"
            properties = Look("", False, grey, cmyk, turned, image.has_transparency_data)
            profile = image.info.get("icc_profile")
            image.draft(None, (1, 1))
            image.load()
            if profile:
                colours = _colours(profile, _opaque(image).mode)
                properties = properties._replace(profile=bool(colours.transform), broken_profile=colours.broken)
    except BrokenError as error:
        return properties._replace(fault=str(error), oversized=isinstance(error, OversizedError))
    return properties


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Open an encoded image. Raises BrokenError for faults in its header, and for any error inside the block.

    The header is judged before anything is decoded: a bomb of a few kilobytes would take gigabytes. Samples of more
    than 8 bits are a fault, since Pillow cuts them off at 255 and turns the picture white.
    """
    formats = FORMATS
    if encoded[4:12] in _HEIF:
        _read_heif()
        formats = ("HEIF", "AVIF")
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                most = f"at most {MAX_PIXELS / 1e6:.0f} million are decoded"
                raise OversizedError(f"{image.width} x {image.height} pixels, {most}")
            if image.mode.startswith(("I", "F")):
                raise BrokenError(f"samples of more than 8 bits (mode {image.mode})")
            yield image
    except (BrokenError, MemoryError):  # a machine without memory says nothing about the picture
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise OversizedError(str(error)) from error
    except UnidentifiedImageError as error:  # its text names a Python object
        raise BrokenError(_unread(encoded)) from error
    except Exception as error:  # Pillow's plugins raise errors of any type
        raise BrokenError(" ".join(str(error).split()) or type(error).__name__) from error


def _unread(encoded: bytes) -> str:
    """Return the fault of a file in no format that is read, by its first bytes."""
    Image.init()
    start = encoded[:16].ljust(16, b"\0")
    known = [name for name, (_, accept) in Image.OPEN.items() if accept and accept(start) is True]
    other = next((name for name in known if name not in (*FORMATS, "HEIF")), "")
    found = f"a file that looks like {other}, which is not read" if other else "no picture in a format that is read"
    return f"{found}; save it as one of {', '.join(FORMATS)}"


@functools.cache
def _read_heif() -> None:
    """Teach Pillow the HEIC pictures of phones. Raises BrokenError without the extra `heic`."""
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        raise BrokenError("a HEIC picture, which pip install 'bridge_jax[heic]' makes readable") from error
    pillow_heif.register_heif_opener()


def eval_view(encoded: bytes, image_px: int, squash: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Return the centre square: the short side resized to `image_px` (bicubic, antialiased), then a centre crop.

    With `squash`, return the whole picture, each side resized to `image_px`. Raises BrokenError.
    """
    width, height = size(encoded)
    if squash:
        image = decode(encoded, max(image_px / width, image_px / height))
        return _resize(image, (width, height), (0, 0, width, height), image_px)
    side = min(width, height)
    image = decode(encoded, image_px / side)
    return _resize(image, (width, height), ((width - side) / 2, (height - side) / 2, side, side), image_px)


def taken(encoded: bytes) -> str:
    """Return the day on which a camera says it took the picture, YYYY-MM-DD, or an empty string."""
    with contextlib.suppress(BrokenError), _opened(encoded) as image:
        exif = image.getexif()
        found = _DAY.match(str(exif.get_ifd(_EXIF_IFD).get(_TAKEN) or exif.get(_CHANGED) or ""))
        return "-".join(found.groups()) if found else ""
    return ""


def train_view(
    encoded: bytes, image_px: int, data: config.Data, may_flip: bool, generator: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a random view: RandomResizedCrop, a mirror half of the time where `may_flip`, RandAugment.

    With `data.squash`, crop the picture squashed to a square.

    A pure function of the arguments and the generator's state. The flip draws a number even where it is not allowed, so
    that a caption never changes the other random operations on its photo. Raises BrokenError.
    """
    width, height = size(encoded)
    side = max(width, height)
    across, down = (side, side) if data.squash else (width, height)
    box = random_crop(across, down, data.crop_area, data.crop_ratio, generator)
    box = (box[0] * width / across, box[1] * height / down, box[2] * width / across, box[3] * height / down)
    image = decode(encoded, max(image_px / box[2], image_px / box[3]))
    pixels = _resize(image, (width, height), box, image_px)
    if generator.random() < 0.5 and data.flip and may_flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if data.randaugment_layers:
        pixels = augment.rand_augment(pixels, data.randaugment_layers, data.randaugment_magnitude, generator)
    return pixels


def may_flip(captions: Sequence[str]) -> bool:
    """Return False when a caption says "left" or "right": mirrored, the picture would contradict it."""
    return not any(_SIDE_WORDS.search(caption) for caption in captions)


def size(encoded: bytes) -> tuple[int, int]:
    """Return width and height as shown (EXIF orientation applied), from the header alone."""
    with _opened(encoded) as image:
        return _shown_size(image)


def decode(encoded: bytes, scale: float) -> Image.Image:
    """Return the upright picture in sRGB, at `scale` or more of its resolution (JPEG; others come in full).

    Raises BrokenError.
    """
    with _opened(encoded) as image:
        if scale < 1:
            image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
        image.load()  # turns a TIFF
        turn = _turn(image)
        return _to_srgb(image if turn is None else image.transpose(turn))


def random_crop(
    width: int, height: int, area: Sequence[float], ratio: Sequence[float], generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return left, top, width, height of a random crop (RandomResizedCrop of Inception, as torchvision has it).

    The share of the area is uniform in `area`, the aspect ratio log-uniform in `ratio`. Where no try fits, return the
    largest centre crop whose ratio lies within `ratio`.
    """
    for _ in range(_CROP_TRIES):
        target = width * height * generator.uniform(area[0], area[1])
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return float(generator.integers(width - w + 1)), float(generator.integers(height - h + 1)), w, h
    w = min(width, height * ratio[1])
    h = min(height, width / ratio[0])
    return (width - w) / 2, (height - h) / 2, w, h


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that shows a picture upright, by EXIF; None where it is. Pillow turns a TIFF when it loads it."""
    return _TURNS.get(image.getexif().get(_ORIENTATION, 1))


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an upright picture; a TIFF has them before it is loaded."""
    lies = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if lies else image.size


def _opaque(image: Image.Image) -> Image.Image:
    """Return a picture in RGB, L or CMYK, on white where it is transparent: the colours hidden there are never seen."""
    if not image.has_transparency_data:
        return image if image.mode in ("L", "CMYK") else image.convert("RGB")
    shown = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(shown, mask=shown)
    return page


class _Colours(NamedTuple):
    """How the colours of a profile become sRGB; None: they are sRGB, or nobody knows as the profile is broken."""

    transform: ImageCms.ImageCmsTransform | None
    broken: bool = False


@functools.lru_cache(maxsize=64)
def _colours(profile: bytes, mode: str) -> _Colours:
    """Judge a profile by its effect on some colours, as names lie: within 2 of 255 it is taken for sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = mode if profile[16:20].strip() == {"L": b"GRAY"}.get(mode, mode.encode()) else "RGB"  # ICC.1, 7.2.6
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return _Colours(None, broken=True)
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    some = Image.fromarray(grid).convert(mode)
    change = np.asarray(transform.apply(some)).astype(int) - np.asarray(some.convert("RGB"))
    return _Colours(None if np.abs(change).max() <= 2 else transform)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return a picture in sRGB, converted where it has another profile. A broken profile is ignored."""
    opaque = _opaque(image)
    profile = image.info.get("icc_profile")
    transform = _colours(profile, opaque.mode).transform if profile else None
    if opaque.mode != (transform.input_mode if transform else "RGB"):
        opaque = opaque.convert("RGB")
    return transform.apply(opaque) if transform else opaque


def _resize(
    image: Image.Image, full: tuple[int, int], box: tuple[float, float, float, float], image_px: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Cut `box` (left, top, width, height in pixels of the full picture) and resize it to the square."""
    x, y = image.width / full[0], image.height / full[1]
    left, top, width, height = box
    corners = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
    return np.asarray(image.resize((image_px, image_px), Image.Resampling.BICUBIC, box=corners))
