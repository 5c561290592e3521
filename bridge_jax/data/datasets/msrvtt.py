"""MSR-VTT: captions of short videos, for retrieval. A video comes as its extracted frames."""

import collections
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.datasets import lists, photo_builder
from bridge_jax.data.datasets.lists import Columns
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo

TEST_1K = "MSRVTT_JSFUSION_test.csv"
WHOLE = "MSRVTT_data.json"
FRAMES = "frames"
_PICTURES = (".jpg", ".jpeg", ".png")
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")  # the last number in a file name without its suffix
_EXTRACT = "ffmpeg -i videos/video7010.mp4 -vf fps=3 -q:v 2 frames/video7010/%04d.jpg"


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `MSRVTT_JSFUSION_test.csv` or `MSRVTT_data.json`, and `frames/<video_id>/*.jpg`.

    The CSV (columns video_id and sentence) is split `test`, the 1k-A test of Yu et al. (arXiv 1808.02559): 1,000 videos
    with a caption each, the set of published retrieval results. Without the CSV, the JSON is split `test_full`, the
    official test: 2,990 videos with 20 captions each. Neither is trained on.

    A video is one record of `num_frames` frames. Its extracted frames, ordered by the numbers that end their names, are
    cut into `num_frames` equal parts, and the middle frame of each part is kept; a video with fewer frames shows some
    of them twice. CLIP4Clip (arXiv 2104.08860) reads 12 frames, BLIP (arXiv 2201.12086) 8. A frame missing between
    others, and a video without frames, count as pictures that cannot be read: the video is left out and listed, up to
    one in a hundred.
    """

    name = "msrvtt"
    DESCRIPTION = "MSR-VTT: web videos of 10 to 30 seconds with captions, for retrieval."
    HOMEPAGE = "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset/"
    CITATION = (
        "Xu, Mei, Yao, Rui: MSR-VTT: A Large Video Description Dataset for Bridging Video and Language. CVPR, 2016."
    )
    PUBLISHED: ClassVar = {"test": 1000}

    def __init__(self, *, num_frames: int, **arguments: Any):
        """Read the list of videos before anything is written. Raises ConfigError (see `survey`)."""
        self.frames = num_frames
        super().__init__(**arguments)

    def read(self, raw: Path) -> dict[str, list[Photo]]:
        """Return split -> videos with the frames to keep. Raises ConfigError for the first fault."""
        videos = self.survey(raw, photo_builder.at_once)
        return {split: [_sampled(video, self.frames) for video in members] for split, members in videos.items()}

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> videos with all of their frames, and call `refuse` for lines that cannot be read.

        Raises ConfigError where the list of videos or the folder of frames is missing, and for a list of another kind.
        """
        if not (raw / FRAMES).is_dir():
            raise ConfigError(f"--raw_dir: no folder {FRAMES}/ in {raw}; extract the frames of every video: {_EXTRACT}")
        if (raw / TEST_1K).is_file():
            split, path, captions = "test", raw / TEST_1K, read_csv(raw / TEST_1K, refuse)
        elif (raw / WHOLE).is_file():
            split, path, captions = "test_full", raw / WHOLE, read_json(raw / WHOLE)
        else:
            raise ConfigError(f"--raw_dir: neither {TEST_1K} nor {WHOLE} in {raw}; put one there")
        videos = []
        for number, (video, texts) in enumerate(captions.items()):
            if Path(video).name != video:
                refuse(f"{path}: video_id {video!r} is not the name of a folder in {FRAMES}/")
                continue
            first, *later = ordered_frames(raw / FRAMES / video)
            videos.append(Photo(first, number, tuple(texts), later=tuple(later)))
        if not videos:
            refuse(f"{path}: it lists no video")
        return {split: videos}

    def _further(self, photo: Photo, encoded: Sequence[bytes]) -> dict[str, Any]:
        return super()._further(photo, encoded) | {"filename": photo.path.parent.name}


def read_csv(file: Path, refuse: Refuse) -> dict[str, list[str]]:
    """Return video -> captions in the order of the lines; call `refuse` for a line that lacks either."""
    captions: dict[str, list[str]] = collections.defaultdict(list)
    for line in lists.read(file, Columns("video_id", "sentence")):
        if line.fault:
            refuse(f"{file}, line {line.number}: {line.fault}")
        else:
            captions[str(line.image)] += line.captions
    return captions


def read_json(file: Path) -> dict[str, list[str]]:
    """Return video -> captions of the official test, in the order of the videos. Raises ConfigError."""
    try:
        content = as_json.loads(file.read_text(encoding="utf-8-sig"))
        captions = {video["video_id"]: [] for video in content["videos"] if video["split"] == "test"}
        for sentence in content["sentences"]:
            if sentence["video_id"] in captions:
                captions[sentence["video_id"]].append(sentence["caption"].strip())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is not a {WHOLE}: expected JSON with `videos` (video_id, split) and `sentences` "
            f"(video_id, caption) ({error!r})"
        ) from error
    return captions


def ordered_frames(folder: Path) -> list[Path]:
    """Return the frames of a video in order, with missing ones in their places; `*.jpg` for a folder without frames.

    Frames are ordered by the last number in each name (10.jpg comes after 9.jpg), or by name where a name has no number
    or two have the same. Frames are missing where the numbers rise in equal steps but for some gaps, and most of them
    exist; other numbers, such as those of key frames, are taken as they are.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURES)
    matches = [match for path in paths if (match := _NUMBER.fullmatch(path.stem))]
    numbered = {int(match[2]): path for match, path in zip(matches, paths, strict=False)}
    if len(matches) < len(paths) or len(numbered) < len(paths) or not paths:
        return paths or [folder / "*.jpg"]
    numbers = sorted(numbered)
    steps = collections.Counter(after - before for before, after in itertools.pairwise(numbers))
    expected = range(numbers[0], numbers[-1] + 1, steps.most_common(1)[0][0] if steps else 1)
    if not set(numbers) <= set(expected) or 2 * len(numbers) <= len(expected):
        expected = numbers
    before, digits, after = matches[0].groups()
    named = f"{before}{{:0{len(digits)}d}}{after}{paths[0].suffix}"
    return [numbered[n] if n in numbered else folder / named.format(n) for n in expected]


def middles(count: int, total: int) -> list[int]:
    """Return the indices in the middle of `count` equal parts of `total` things.

    >>> middles(3, 9), middles(4, 2)
    ([1, 4, 7], [0, 0, 1, 1])
    """
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def _sampled(video: Photo, count: int) -> Photo:
    first, *later = (video.paths[i] for i in middles(count, len(video.paths)))
    return video._replace(path=first, later=tuple(later))
