"""The base of all builders of photo data sets: it reads a raw folder of files and writes checked records.

Pictures that cannot be read and captions that cannot be used are listed and skipped, up to one in a hundred.
"""

import abc
import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import tensorflow_datasets as tfds
from absl import logging

from bridge_jax.config import ConfigError
from bridge_jax.data import prepared
from bridge_jax.data.datasets import photo_records
from bridge_jax.data.datasets.photo_records import AS_THEY_ARE, Photo
from bridge_jax.data.encode import Stored
from bridge_jax.data.filters import Filters, filtered
from bridge_jax.data.held_out import COCO_NUMBERED, TRAIN, Copy, HeldOut

MAX_ID = 2**31 - 1  # batches hold ids as int32
SPLITS = ("train", "val", "test")  # those that are drawn, or that the names of files say
NO_FILTERS = Filters()
_LOOK_AHEAD = 4  # images each thread may read ahead of the one being written

Refuse = Callable[[str], None]  # called with a fault of the raw folder
Survey = Callable[[Path, Refuse], dict[str, list[Photo]]]


def at_once(fault: str) -> NoReturn:
    """Raise ConfigError: the preparation stops at the first fault."""
    raise ConfigError(fault)


def leaves(name: str) -> bool:
    """Return whether a path that a file names leads out of the folder."""
    return name.startswith("/") or ".." in name.split("/")


def whole(value: Any) -> int:
    """Return an image id that a file gives as a number or as digits. Raises ValueError for anything else."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(number) is not int or not 0 <= number <= MAX_ID:
        raise ValueError(f"image id {value!r}: expected a whole number from 0 to {MAX_ID}")
    return number


def check(photos: Mapping[str, Sequence[Photo]], annotations: Path, refuse: Refuse) -> None:
    """Call `refuse` where there is no photo, a folder of photos is missing or one text stands for several."""
    everything = [photo for split in photos.values() for photo in split]
    for photo in everything:
        if isinstance(photo.captions, str):
            refuse(
                f"{annotations}: the captions of {photo.path.name} are one text, {photo.captions!r}; expected a list"
            )
    if not everything:
        refuse(f"{annotations} lists no photo; list at least one")
    for folder in sorted({p.path.parent for p in everything}):
        if not folder.is_dir():
            refuse(f"--raw_dir: no image folder {folder}, which {annotations.name} names")


def drawn_split(sha256: bytes, val_share: float, test_share: float) -> str:
    """Return the split of a photo whose split nothing names, by the hash of its bytes."""
    place = int.from_bytes(sha256[:8], "big") / 2**64
    return "test" if place < test_share else "val" if place < test_share + val_share else "train"


class Tars(NamedTuple):
    """The tars of a raw folder: path within the folder -> split by its name (empty: by each picture).

    `val_share` and `test_share` are the shares of the pictures whose split nothing names.
    """

    splits: Mapping[str, str]
    val_share: float
    test_share: float


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Write the photos of a raw folder. A subclass gives the name and the layout of the data set."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION: str
    HOMEPAGE: str
    CITATION: str
    QUESTIONS = False  # whether the photos have questions
    STATEMENTS = False  # whether the photos have statements
    PAIRS = False  # whether a second photo belongs to each
    LONG = False  # whether retrieval refuses a text tower that cuts the captions (`long_captions`)
    frames = 1  # pictures of a video, where a record is one; 1: no video
    PUBLISHED: ClassVar[Mapping[str, int]] = {}  # split -> photos, as papers count them; empty: unknown
    IDS_OF_SPLIT = False  # whether two splits may number their photos alike
    SUBSETS: ClassVar[Mapping[str, str]] = {}  # split -> another split that has all its photos too
    FILTERED = False  # whether filters may take photos of it, as nobody has chosen them

    def __init__(
        self,
        *,
        raw_dir: str,
        workers: int = 1,
        held_out: HeldOut | None = None,
        stored: Stored = AS_THEY_ARE,
        filters: Filters = NO_FILTERS,
        **arguments: Any,
    ):
        """Read and check the lists of `raw_dir`, before anything is written. Raises ConfigError (see `read`).

        Images are read and checked in `workers` threads: decoding releases the GIL. Pictures in `held_out` are left out
        of train, and so is what `filters` take. The others are stored as `stored` says.
        """
        raw = Path(raw_dir).expanduser()
        if not raw.is_dir():
            raise ConfigError(f"--raw_dir: {raw} is not a folder")
        self._photos = self.read(raw)
        self._check_ids()
        self._filters, self._took = filters, collections.Counter[str]()
        if filters.on and TRAIN in self._photos:
            self._photos[TRAIN], self._took = filtered(self._photos[TRAIN], filters, workers)
        self._skipped = photo_records.Skipped(sum(len(split) for split in self._photos.values()))
        self._workers = workers
        self._held_out, self._stored = held_out, stored
        self._copies: list[tuple[Path, Copy]] = []
        super().__init__(**arguments)

    def read(self, raw: Path) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder. Raises ConfigError for the first fault."""
        return self.survey(raw, at_once)

    def _check_ids(self) -> None:
        """Raise ConfigError where two photos have one id."""
        known: dict[Any, tuple[str, Photo]] = {}
        for split, photos in self._photos.items():
            for photo in photos:
                apart = split if self.IDS_OF_SPLIT or split in self.SUBSETS else ""
                before, other = known.setdefault((photo.image_id, apart), (split, photo))
                if other is not photo and not photo.fault:
                    raise ConfigError(
                        f"--raw_dir: image id {photo.image_id} is used twice, by {other.path.name} ({before}) and by "
                        f"{photo.path.name} ({split}); ids must be unique"
                    )

    @classmethod
    @abc.abstractmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos of the raw folder, and call `refuse` for every fault. Raises ConfigError."""

    @classmethod
    def tars(cls, raw: Path) -> Tars | None:
        """Return the tars of a raw folder that holds the data set as such (`tar_preparation`), or None."""
        del raw
        return None

    def _info(self) -> tfds.core.DatasetInfo:
        features = prepared.features(
            questions=self.QUESTIONS, statements=self.STATEMENTS, pairs=self.PAIRS, frames=self.frames
        )
        told = self._stored.metadata | self._filters.metadata(self._took)
        return self.about(self, features, told if self._held_out or told else None)

    @classmethod
    def about(cls, identity: Any, features: Any, metadata: Mapping[str, Any] | None) -> tfds.core.DatasetInfo:
        """Return the description of the records of a builder, or of the DatasetIdentity of one."""
        return tfds.core.DatasetInfo(
            builder=identity,
            description=cls.DESCRIPTION,
            features=features,
            homepage=cls.HOMEPAGE,
            citation=cls.CITATION,
            metadata=None if metadata is None else tfds.core.MetadataDict(metadata),
        )

    def _download_and_prepare(self, *arguments: Any, **keywords: Any) -> None:
        super()._download_and_prepare(*arguments, **keywords)
        if lines := self._skipped.lines:  # data_path is still the temporary folder, which is renamed at the end
            (Path(self.data_path) / prepared.SKIPPED).write_text("\n".join(lines) + "\n", encoding="utf-8")
            logging.warning("%d pictures or captions skipped, listed in %s", len(lines), prepared.SKIPPED)
        if self._copies and len(self._copies) == len(self._photos[TRAIN]):
            raise ConfigError(
                f"--held_out: all {len(self._copies)} pictures of {TRAIN} are held out, so none is left; "
                "name fewer data sets"
            )
        if empty := [split for split in self._photos if not self.info.splits[split].num_examples]:
            raise ConfigError(f"--raw_dir: no picture of the split {empty[0]!r} is left; give it one or leave it out")
        if self._held_out is not None and self.info.metadata is not None:
            self.info.metadata.update(self._held_out.save(self._copies, Path(self.data_path)))

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator]]]:
        shards = {}
        for split, members in self._photos.items():
            starts = range(0, len(members), prepared.SHARD_EXAMPLES)
            parts = [members[start : start + prepared.SHARD_EXAMPLES] for start in starts]
            shards[split] = [functools.partial(self._examples, split, part) for part in parts]
        return shards

    def _examples(self, split: str, photos: Sequence[Photo]) -> Iterator[tuple[int, dict[str, Any]]]:
        logging.info("%s: %d images from %s on", split, len(photos), photos[0].path.name)
        with ThreadPoolExecutor(self._workers) as pool:
            coming = ((photo, pool.submit(self._read, split, photo)) for photo in photos)
            pending = collections.deque(itertools.islice(coming, self._workers * _LOOK_AHEAD))
            while pending:
                photo, future = pending.popleft()
                pending.extend(itertools.islice(coming, 1))
                encoded, path, fault, copy = future.result()
                if copy:
                    self._copies.append((path, copy))
                elif fault:
                    self._skip(path, fault, 1.0)
                elif (usable := self._usable(photo)).texts or not photo.texts:
                    record = photo_records.record(usable, encoded[0])
                    yield photo.image_id, record | self._further(usable, encoded)

    def _read(self, split: str, photo: Photo) -> photo_records.Read:
        held = self._held_out if split == TRAIN else None
        coco_id = photo.image_id if self.name in COCO_NUMBERED else photo.coco_id
        return photo_records.read(photo, self._stored, held, coco_id)

    def _further(self, photo: Photo, encoded: Sequence[bytes]) -> dict[str, Any]:
        """Return the fields that the records of this data set have beyond those of all."""
        questions = [question.to_json() for question in photo.questions]
        return (
            ({"questions": questions} if self.QUESTIONS else {})
            | ({"statements": questions} if self.STATEMENTS else {})
            | ({"second_image": encoded[1]} if self.PAIRS else {})
            | ({"later_frames": encoded[1:]} if self.frames > 1 else {})
        )

    def _usable(self, photo: Photo) -> Photo:
        usable, faults = photo_records.usable(photo)
        for fault in faults:
            self._skip(photo.path, fault, 1 / len(photo.texts))
        return usable

    def _skip(self, path: Path, fault: str, share: float) -> None:
        logging.warning("skipped %s: %s", path, fault)
        self._skipped.add(f"{path}: {fault}", share)
