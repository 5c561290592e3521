"""Turn pictures and captions into the model's inputs, the same bytes and ids as in training.

A picture's centre square is resized by Pillow (bicubic, antialiased). Training decodes a JPEG at a draft size, so that
libjpeg leaves out the frequencies that the resize would drop. To get the very same bytes give a path, the file's bytes,
or an unconverted `Image.open(path)`. A picture that is decoded already, such as `Image.open(path).convert("RGB")`, is
resized from its full resolution.
"""

import functools
import io
import math
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import transformers
from PIL import Image, ImageCms, UnidentifiedImageError
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

# The formats of photos. Pillow opens others too, and would run Ghostscript on an EPS that is named photo.jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")
_FILE = re.compile(r"\S+\.(jpe?g|png|webp|gif|avif|bmp|tiff?|jp2|ppm|hei[cf])", re.IGNORECASE)
_URL = re.compile(r"([a-z][a-z0-9+.-]*://|data:)\S*$", re.IGNORECASE)
# Joins the texts of a chat. The pictures of a chat go to the model as they are.
_PAIR = (
    "{% for message in messages %}{% for part in message.content if part.type == 'text' %}{{ part.text }}"
    "{% endfor %}{% endfor %}"
)
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


class BridgeImageProcessor(BaseImageProcessor):
    """Turn pictures into `pixel_values` [B,3,image_size,image_size]: (bytes / 255 - mean) / deviation."""

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, image_size=224, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), squash=False, **kwargs):
        super().__init__(**kwargs)
        self.squash = squash  # use the whole picture, squashed to a square, instead of the square in its middle
        self.image_size = image_size
        self.image_mean = image_mean
        self.image_std = image_std

    def __call__(self, images, return_tensors=None, **kwargs):
        return self.preprocess(images, return_tensors=return_tensors, **kwargs)

    def preprocess(self, images, return_tensors=None, **kwargs):
        """Return `pixel_values` of one picture or a list: paths, encoded bytes, PIL images or uint8 arrays [H,W,3]."""
        images = images if isinstance(images, (list, tuple)) else [images]
        pixels = np.stack([self.square(image) for image in images]).astype(np.float32) / np.float32(255)
        pixels = (pixels - np.float32(self.image_mean)) / np.float32(self.image_std)
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def square(self, image) -> np.ndarray:
        """Return the uint8 square [image_size,image_size,3] that the model sees, before normalisation."""
        if isinstance(image, str):
            _refuse_url(image, "a path, the file's bytes or an opened picture")
        if isinstance(image, (str, Path)):
            image = Path(image).read_bytes()
        if isinstance(image, Image.Image):
            image = _encoded(image) or image
        if isinstance(image, bytes):
            image = _open(image)
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.asarray(image))
        width, height = _shown_size(image)
        side = min(width, height)
        scale = self.image_size / side
        if scale < 1 and hasattr(image, "draft"):
            image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
        image.load()
        turn = _turn(image)
        image = _to_srgb(image if turn is None else image.transpose(turn))
        x, y = image.width / width, image.height / height
        across, down = (width, height) if self.squash else (side, side)
        left, top = (width - across) / 2, (height - down) / 2
        box = (left * x, top * y, min((left + across) * x, image.width), min((top + down) * y, image.height))
        return np.asarray(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC, box=box))


class BridgeProcessor(ProcessorMixin):
    """`processor(images=..., text=...)` returns pixel_values, input_ids and attention_mask."""

    if int(transformers.__version__.split(".")[0]) < 5:  # later versions read the signature of __init__
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor, tokenizer, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or _PAIR)

    def __call__(self, images=None, text=None, return_tensors="pt", text_kwargs=None, **kwargs):
        """Pad or cut captions to the length of training; `padding` and `truncation` change that.

        They are arguments, or entries of `text_kwargs` as sentence-transformers has them.
        """
        data = {}
        for other in ("images_kwargs", "audio_kwargs", "videos_kwargs", "common_kwargs"):
            kwargs.pop(other, None)
        if text is not None:
            text = [text] if isinstance(text, str) else list(text)
            for each in text:
                _refuse_place(each)
            data |= self.tokenizer(text, **{"padding": "max_length", "truncation": True} | kwargs | (text_kwargs or {}))
        if images is not None:
            data |= self.image_processor(images)
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(self, conversation, chat_template=None, tokenize=False, **kwargs):
        """Return the inputs of pairs that sentence-transformers' CrossEncoder gives as chats of a query and a document.

        One of the two is a picture and the other a text; a prompt comes before the text. A picture or text that is in
        several pairs is given once, and the inputs `image_of` and `text_of` say which are a pair.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, **kwargs)
        pairs = [_pair(messages) for messages in conversation]
        images, texts = {_key(image): image for image, _ in pairs}, dict.fromkeys(text for _, text in pairs)
        image_row, text_row = ({key: row for row, key in enumerate(keys)} for keys in (images, texts))
        inputs = dict(self(images=list(images.values()), text=list(texts)))
        inputs["image_of"] = [image_row[_key(image)] for image, _ in pairs]
        inputs["text_of"] = [text_row[text] for _, text in pairs]
        return BatchFeature(inputs, tensor_type="pt")


def _pair(messages) -> tuple:
    """Return the picture and the text of a chat."""
    parts = [(message["role"], part) for message in messages for part in message["content"]]
    for _, part in parts:
        if part["type"] == "text":
            _refuse_place(part["text"])
    kinds = [part["type"] for role, part in parts if role != "system"]
    if sorted(kinds) != ["image", "text"]:
        raise ValueError(f"a pair of {' and '.join(kinds) or 'nothing'}: expected one picture and one text")
    (image,) = (part["image"] for _, part in parts if part["type"] == "image")
    return image, "".join(part["text"] for _, part in parts if part["type"] == "text")


def _key(image):
    """Return what two pairs with the same picture have in common: its path, or the object."""
    return image if isinstance(image, str) else id(image)


def _refuse_place(text):
    """Raise ValueError for a text that names a file or a page: a path that is wrong would pass for a caption."""
    if not isinstance(text, str):
        raise ValueError(f"a text is {type(text).__name__}: expected a string")
    _refuse_url(text, "a text")
    if _FILE.fullmatch(text):
        raise ValueError(f"{text!r} names a picture but came as a text: no such file, or open it with PIL.Image.open")


def _refuse_url(text: str, expected: str):
    if _URL.match(text):
        raise ValueError(f"{text[:80]!r} is a URL: expected {expected}; download it first")


def _open(encoded: bytes) -> Image.Image:
    """Open a picture; HEIF too where a plugin for it is registered."""
    Image.init()
    formats = [name for name in (*_FORMATS, "HEIF") if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(encoded), formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError(f"expected a picture in one of the formats {', '.join(formats)}") from error


def _encoded(image: Image.Image) -> bytes | None:
    """Return the encoded bytes of a picture that is not decoded yet, or None; the caller's object does not change."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return None
    position = file.tell()
    file.seek(0)
    encoded = file.read()
    file.seek(position)
    return encoded


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


@functools.lru_cache(maxsize=64)
def _colours(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what makes the colours of a profile sRGB; None where they are, or the profile is broken.

    It is judged by its effect on some colours, as names lie: within 2 of 255 it is taken for sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = mode if profile[16:20].strip() == {"L": b"GRAY"}.get(mode, mode.encode()) else "RGB"  # ICC.1, 7.2.6
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    some = Image.fromarray(grid).convert(mode)
    change = np.asarray(transform.apply(some)).astype(int) - np.asarray(some.convert("RGB"))
    return None if np.abs(change).max() <= 2 else transform


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return a picture in sRGB, converted where it has another profile. A broken profile is ignored."""
    opaque = _opaque(image)
    profile = image.info.get("icc_profile")
    transform = _colours(profile, opaque.mode) if profile else None
    if opaque.mode != (transform.input_mode if transform else "RGB"):
        opaque = opaque.convert("RGB")
    return transform.apply(opaque) if transform else opaque
