"""The data sets: one module each, a TFDS builder that writes ArrayRecord. Neither writing nor reading needs TensorFlow.

Tars are written by `tar_preparation`, in the same form. All else is written by tfds in one process.

Every builder has the same record, so the pipeline knows none of them by name (`features`). The builders are
`ShardBasedBuilder`s: `GeneratorBasedBuilder` spills a split of more than 1 GB through `tf.io.gfile`, which COCO would
exceed, and shuffles the records, while the shapes set needs a scene and its mirror to stay neighbours.
"""

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from bridge_jax import config

FOLDER = Path(__file__).parent / "datasets"
VOCABULARY = "tokenizer.json"  # beside the records of a data set that trains its own
SKIPPED = "skipped_images.txt"  # beside the records, where images or captions were broken
SHARD_EXAMPLES = 1024  # about 160 MB of COCO photos; one shard is held in memory while it is written
_SHARED = (
    "compositionality",
    "karpathy",
    "lists",
    "pairs",
    "photo_builder",
    "photo_records",
    "raw_files",
    "statements",
    "tables",
    "tars",
)  # modules there that are no data set


def features(
    *,
    questions: bool = False,
    statements: bool = False,
    pairs: bool = False,
    wrong_kinds: bool = False,
    frames: int = 1,
) -> tfds.features.FeaturesDict:
    """Return the features of a record: those that all data sets share, and those that only some have.

    `image` is the file's own bytes, never re-encoded. `image_id` is unique within the data set, over all splits.
    `caption_kinds` holds for each caption "caption" (written by people), "description", "relation" or "converse"
    (shapes), or the domain of its picture (nocaps). `wrong_captions` are captions known to be false of the image, and
    `wrong_caption_kinds` their kinds. `scene` is JSON, or empty for photos. `questions` and `statements` are JSON of
    `questions.Question`. `second_image` holds another file's bytes; statements are about both images, captions and
    questions only about the first. `later_frames` holds the bytes of a video's `frames` after
    `image`, its first frame; captions describe all of them. (It is stored as text, which keeps any bytes; a sequence of
    images would be decoded.)
    """
    lists = {"questions": questions, "statements": statements, "wrong_caption_kinds": wrong_kinds}
    own = {name: tfds.features.Sequence(tfds.features.Text()) for name, present in lists.items() if present}
    own |= {"second_image": tfds.features.Image(shape=(None, None, 3))} if pairs else {}
    own |= {"later_frames": tfds.features.Sequence(tfds.features.Text(), length=frames - 1)} if frames > 1 else {}
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image_id": np.int64,
            "filename": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "caption_kinds": tfds.features.Sequence(tfds.features.Text()),
            "wrong_captions": tfds.features.Sequence(tfds.features.Text()),
            "scene": tfds.features.Text(),
            **own,
        }
    )


def names() -> list[str]:
    """Return the names of all data sets."""
    return sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.name not in _SHARED)


def builder_class(name: str, key: str) -> type[tfds.core.ShardBasedBuilder]:
    """Return the builder of data set `name`. Raises ConfigError where there is none (naming `key`) or it has another
    name.
    """
    if name not in names():
        raise config.ConfigError(f"{key}: {name!r} is not a data set; {config.nearest(name, names())}")
    builder = importlib.import_module(f"bridge_jax.data.datasets.{name}").Builder
    if builder.name != name:
        raise config.ConfigError(
            f"bridge_jax/data/datasets/{name}.py: Builder.name is {builder.name!r}; set it to {name!r}, the file's name"
        )
    return builder


def folder(data_dir: str | Path, builder: type[tfds.core.ShardBasedBuilder]) -> Path:
    """Return the folder for the records of `builder` under `data_dir`, prepared or not."""
    return Path(data_dir).expanduser() / builder.name / str(builder.VERSION)


def prepared_folder(data: config.Data) -> Path:
    """Return the folder of the prepared data set. Raises ConfigError, naming the command to run, if there is none."""
    return prepared(builder_class(data.dataset, "config.data.dataset"), data.data_dir, "config.data")


def prepared(builder: type[tfds.core.ShardBasedBuilder], data_dir: str, key: str) -> Path:
    """Return the folder in which `builder` was prepared. Raises ConfigError, naming `key`, where it was not."""
    path = folder(data_dir, builder)
    if not (path / "dataset_info.json").is_file():
        raw_dir = "" if builder.name == "shapes" else " --raw_dir=DIR"
        raise config.ConfigError(
            f"{key}: data set {builder.name!r} is not prepared in {path}; run "
            f"python -m tools.prepare_data --dataset={builder.name}{raw_dir} --data_dir={data_dir}"
        )
    return path
