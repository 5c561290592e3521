"""From a photo of a raw folder to its record: read, judged, stored smaller where that is asked for.

found = read(photo, AS_THEY_ARE, held_out)      its encoded files; or the fault, or the copy, for which it is left out
photo, faults = usable(photo)                   without the captions that cannot be used
record(photo, found.encoded[0])                 the fields that all data sets have
"""

from pathlib import Path
from typing import Any, NamedTuple

from bridge_jax.config import ConfigError
from bridge_jax.data import image, text
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.encode import Stored, smaller
from bridge_jax.data.held_out import Copy, HeldOut
from bridge_jax.data.questions import Question

BROKEN_LIMIT = 0.01  # share of broken images above which preparation stops; one of n captions is 1/n of its image
AS_THEY_ARE = Stored()


class Photo(NamedTuple):
    """An image of the raw data set: its file, id and captions (stripped), and fields that only some data sets have.

    `questions` holds questions, or statements about the image and the `second` image where there is one. `later` holds
    the later frames of a video whose first frame is the image. `kind` is the kind of all its captions.
    """

    path: Path
    image_id: int
    captions: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    second: Path | None = None
    coco_id: int | None = None  # its id in COCO
    kind: str = "caption"
    later: tuple[Path, ...] = ()
    wrong_captions: tuple[str, ...] = ()  # known to be false of it
    fault: str = ""  # why it is skipped and listed; then `path` is the file that is at fault

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path, *(() if self.second is None else (self.second,)), *self.later)

    @property
    def texts(self) -> tuple[str, ...]:
        """Its captions and questions; none in a test set of captions."""
        return (*self.captions, *(question.text for question in self.questions))


class Read(NamedTuple):
    """The encoded files of a photo, the path and fault of its first faulty file, or the picture that it copies."""

    encoded: list[bytes]
    path: Path
    fault: str = ""
    copy: Copy | None = None


def read(photo: Photo, stored: Stored = AS_THEY_ARE, held: HeldOut | None = None, coco_id: int | None = None) -> Read:
    """Return the files of a photo as they are stored. `held` are pictures to leave out, `coco_id` is its id in COCO."""
    if held and (copy := held.copy_by_id(coco_id)):
        return Read([], photo.path, copy=copy)
    found = _as_it_is(photo)
    if held and not found.fault:
        try:
            found = found._replace(copy=held.copy_by_hash(found.encoded))
        except BrokenError as error:
            return found._replace(fault=str(error))
    if stored.px and not found.fault and not found.copy:
        return found._replace(encoded=[smaller(one, stored) for one in found.encoded])
    return found


def _as_it_is(photo: Photo) -> Read:
    if photo.fault:
        return Read([], photo.path, photo.fault)
    encoded = []
    for path in photo.paths:
        try:
            encoded.append(path.read_bytes())
        except (OSError, ValueError) as error:  # ValueError: no file can have such a name
            fault = error.strerror if isinstance(error, OSError) else ""
            return Read(encoded, path, fault or str(error))
        if fault := image.fault(encoded[-1]):
            return Read(encoded, path, fault)
    return Read(encoded, photo.path)


def usable(photo: Photo) -> tuple[Photo, list[str]]:
    """Return a photo with those of its captions and questions that can be used, and the faults of the others."""
    found = {caption: text.fault(caption) for caption in photo.texts}
    faults = [
        f"{found[caption]} (number {number} of {len(photo.texts)})"
        for number, caption in enumerate(photo.texts, 1)
        if found[caption]
    ]
    if not faults:
        return photo, []
    captions = tuple(caption for caption in photo.captions if not found[caption])
    questions = tuple(question for question in photo.questions if not found[question.text])
    return photo._replace(captions=captions, questions=questions), faults


def record(photo: Photo, encoded: bytes) -> dict[str, Any]:
    """Return the fields that the records of all data sets have."""
    return {
        "image": encoded,
        "image_id": photo.image_id,
        "filename": photo.path.name,
        "captions": photo.captions,
        "caption_kinds": (photo.kind,) * len(photo.captions),
        "wrong_captions": photo.wrong_captions,
        "scene": "",
    }


class Skipped:
    """The pictures and captions left out so far, of the `total` pictures of a data set."""

    def __init__(self, total: int):
        self.lines: list[str] = []
        self._total, self._share = total, 0.0  # of broken parts, counted in images

    def add(self, line: str, share: float) -> None:
        """Count a line and its share of a picture. Raises ConfigError where more than BROKEN_LIMIT are broken."""
        self.lines.append(line)
        self._share += share
        if self._share > BROKEN_LIMIT * self._total:
            raise ConfigError(
                f"--raw_dir: more than {BROKEN_LIMIT:.0%} of {self._total} images are broken "
                f"({len(self.lines)} so far, the last: {line}); fetch them again"
            )
