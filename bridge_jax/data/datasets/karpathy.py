"""Read a photo data set as Karpathy's split files describe it (`dataset_<name>.json`); shared by the photo builders.

The JSON holds `images`, each with `filename`, `imgid`, `split`, `sentences` (each with `raw`) and, for COCO, `filepath`
(the year folder) and `cocoid`. A split that the file does not name is simply not written.
"""

import collections
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import tensorflow_datasets as tfds
from absl import logging

from bridge_jax.config import ConfigError
from bridge_jax.data import datasets, image, text
from bridge_jax.data.questions import Question

SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "test": "test",
}  # COCO: restval joins train, as everywhere
BROKEN_LIMIT = 0.01  # share of broken images above which preparation stops; one of n captions is 1/n of its image
_LOOK_AHEAD = 4  # images each thread may read ahead of the one being written


class Photo(NamedTuple):
    """One image of the JSON: its file, its id, its captions (stripped), and what only some data sets have.

    Those are questions, or statements about it, about the `second` image too where there is one, or the `later` frames
    of a video of which the image is the first.
    """

    path: Path
    image_id: int
    captions: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    second: Path | None = None
    later: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path, *(() if self.second is None else (self.second,)), *self.later)


Refuse = Callable[[str], None]  # is told of a fault of the raw folder


def at_once(fault: str) -> NoReturn:
    """Raise ConfigError: the preparation stops at the first fault."""
    raise ConfigError(fault)


def read(annotations: Path, image_dirs: Sequence[Path]) -> dict[str, list[Photo]]:
    """Return split -> photos as `survey`. Raises ConfigError for the first fault, and where an id occurs twice."""
    photos = survey(annotations, image_dirs, at_once)
    id_, count = collections.Counter(p.image_id for p in itertools.chain(*photos.values())).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{annotations}: image id {id_} is used {count} times; ids must be unique")
    return photos


def survey(annotations: Path, image_dirs: Sequence[Path], refuse: Refuse) -> dict[str, list[Photo]]:
    """Return split -> photos in the order of the file.

    An image lies in the first of `image_dirs` that exists, under `filepath/` where the JSON has one. An entry that is
    no image, an unknown split, an image without captions and a missing year folder go to `refuse`. Raises ConfigError
    where nothing can be read: for a missing file or image folder and a JSON of another kind.
    """
    if not annotations.is_file():
        raise ConfigError(f"--raw_dir: no {annotations.name} in {annotations.parent}; put Karpathy's split file there")
    image_dir = next((d for d in image_dirs if d.is_dir()), None)
    if image_dir is None:
        wanted = " or ".join(f"{d.name}/" for d in image_dirs)
        raise ConfigError(f"--raw_dir: no image folder {wanted} in {annotations.parent}")
    try:
        entries = json.loads(annotations.read_text(encoding="utf-8"))["images"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{annotations} is not a Karpathy split file: expected JSON with a list `images` ({error!r})"
        ) from error
    photos: dict[str, list[Photo]] = collections.defaultdict(list)
    for position, entry in enumerate(entries):
        try:
            photo, split = _photo(entry, image_dir), entry["split"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refuse(f"{annotations}: images[{position}] has no usable {error}")
            continue
        if split not in SPLITS:
            refuse(f"{annotations}: image {photo.path.name} is in split {split!r}; known: {', '.join(SPLITS)}")
            continue
        if not photo.captions:
            refuse(
                f"{annotations}: image {photo.path.name} (images[{position}]) has no caption; write one or delete the "
                "image from the file"
            )
        photos[SPLITS[split]].append(photo)
    check(photos, annotations, refuse)
    return dict(photos)


def _photo(entry: Mapping[str, Any], image_dir: Path) -> Photo:
    path = image_dir / entry["filepath"] / entry["filename"] if "filepath" in entry else image_dir / entry["filename"]
    image_id = entry["cocoid"] if "cocoid" in entry else entry["imgid"]
    return Photo(path, int(image_id), tuple(s["raw"].strip() for s in entry["sentences"]))


def check(photos: Mapping[str, Sequence[Photo]], annotations: Path, refuse: Refuse) -> None:
    """Tell `refuse` where there is no photo or a folder of photos is missing."""
    everything = [photo for split in photos.values() for photo in split]
    if not everything:
        refuse(f"{annotations}: `images` is empty")
    for folder in sorted({p.path.parent for p in everything}):
        if not folder.is_dir():
            refuse(f"--raw_dir: no image folder {folder}, which {annotations.name} names")


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Write the photos of a Karpathy file. A subclass says how the data set is called and laid out."""

    VERSION = tfds.core.Version("1.0.0")
    ANNOTATIONS: str  # file name in the raw folder
    IMAGE_DIRS: tuple[str, ...]  # folders in the raw folder, the first that exists is used
    DESCRIPTION: str
    HOMEPAGE: str
    CITATION: str
    QUESTIONS = False  # whether the photos have some
    STATEMENTS = False  # whether what they have are statements
    PAIRS = False  # whether a second photo belongs to each
    frames = 1  # of a video, where that is what a record is of
    PUBLISHED: ClassVar[Mapping[str, int]] = {}  # split -> photos, as papers count them; empty: not known
    SUBSETS: ClassVar[Mapping[str, str]] = {}  # split -> another that has all its photos too

    def __init__(self, *, raw_dir: str, workers: int = 1, **arguments: Any):
        """Read and check the split file of `raw_dir`, before anything is written. Raises ConfigError (see `read`).

        Images are read and checked in `workers` threads: decoding releases the GIL.
        """
        raw = Path(raw_dir).expanduser()
        if not raw.is_dir():
            raise ConfigError(f"--raw_dir: {raw} is not a folder")
        self._photos = self.read(raw)
        self._total = sum(len(split) for split in self._photos.values())
        self._workers = workers
        self._broken: list[str] = []
        self._share = 0.0  # of them, in images
        super().__init__(**arguments)

    def read(self, raw: Path) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder. Raises ConfigError for the first fault."""
        return read(raw / self.ANNOTATIONS, [raw / d for d in self.IMAGE_DIRS])

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder, every fault told to `refuse`. Raises ConfigError (see `survey`)."""
        return survey(raw / cls.ANNOTATIONS, [raw / d for d in cls.IMAGE_DIRS], refuse)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=datasets.features(
                questions=self.QUESTIONS, statements=self.STATEMENTS, pairs=self.PAIRS, frames=self.frames
            ),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
        )

    def _download_and_prepare(self, *arguments: Any, **keywords: Any) -> None:
        super()._download_and_prepare(*arguments, **keywords)
        if self._broken:  # data_path is still the temporary folder, renamed when everything went well
            (Path(self.data_path) / datasets.SKIPPED).write_text("\n".join(self._broken) + "\n", encoding="utf-8")
            logging.warning("%d pictures or captions skipped, listed in %s", len(self._broken), datasets.SKIPPED)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator]]]:
        shards = {}
        for split, members in self._photos.items():
            starts = range(0, len(members), datasets.SHARD_EXAMPLES)
            parts = [members[start : start + datasets.SHARD_EXAMPLES] for start in starts]
            shards[split] = [functools.partial(self._examples, split, part) for part in parts]
        return shards

    def _examples(self, split: str, photos: Sequence[Photo]) -> Iterator[tuple[int, dict[str, Any]]]:
        logging.info("%s: %d images from %s on", split, len(photos), photos[0].path.name)
        with ThreadPoolExecutor(self._workers) as pool:
            rest, pending = iter(photos), collections.deque()
            for photo in itertools.islice(rest, self._workers * _LOOK_AHEAD):
                pending.append((photo, pool.submit(_read_images, photo)))
            while pending:
                photo, future = pending.popleft()
                pending.extend((p, pool.submit(_read_images, p)) for p in itertools.islice(rest, 1))
                encoded, broken, fault = future.result()
                if fault:
                    self._skip(broken, fault, 1.0)
                elif (usable := self._usable(photo)).captions or usable.questions:
                    yield photo.image_id, _record(usable, encoded[0]) | self._own(usable, encoded)

    def _own(self, photo: Photo, encoded: Sequence[bytes]) -> dict[str, Any]:
        """Return what the records of this data set have besides."""
        asked = [question.to_json() for question in photo.questions]
        return (
            ({"questions": asked} if self.QUESTIONS else {})
            | ({"statements": asked} if self.STATEMENTS else {})
            | ({"second_image": encoded[1]} if self.PAIRS else {})
            | ({"later_frames": encoded[1:]} if self.frames > 1 else {})
        )

    def _usable(self, photo: Photo) -> Photo:
        said = (*photo.captions, *(question.text for question in photo.questions))
        faults = {caption: text.fault(caption) for caption in said}
        for number, caption in enumerate(said, 1):
            if fault := faults[caption]:
                self._skip(photo.path, f"{fault} (the {number}. of {len(said)})", 1 / len(said))
        return photo._replace(
            captions=tuple(caption for caption in photo.captions if not faults[caption]),
            questions=tuple(question for question in photo.questions if not faults[question.text]),
        )

    def _skip(self, path: Path, fault: str, share: float) -> None:
        self._broken.append(f"{path}: {fault}")
        self._share += share
        logging.warning("skipped %s", self._broken[-1])
        if self._share > BROKEN_LIMIT * self._total:
            raise ConfigError(
                f"--raw_dir: more than {BROKEN_LIMIT:.0%} of {self._total} images are broken "
                f"({len(self._broken)} so far, the last: {self._broken[-1]}); fetch them again"
            )


def _read_images(photo: Photo) -> tuple[list[bytes], Path, str]:
    """Return the files' bytes, and the first that something is wrong with and what; an empty string where none is."""
    encoded = []
    for path in photo.paths:
        try:
            encoded.append(path.read_bytes())
        except OSError as error:
            return encoded, path, error.strerror or str(error)
        if fault := image.fault(encoded[-1]):
            return encoded, path, fault
    return encoded, photo.path, ""


def _record(photo: Photo, encoded: bytes) -> dict[str, Any]:
    return {
        "image": encoded,
        "image_id": photo.image_id,
        "filename": photo.path.name,
        "captions": photo.captions,
        "caption_kinds": ("caption",) * len(photo.captions),
        "wrong_captions": (),
        "scene": "",
    }
