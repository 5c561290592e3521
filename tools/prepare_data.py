"""Prepare a data set once: raw folder -> ArrayRecord files that training reads.

    python -m tools.prepare_data --dataset=flickr8k --raw_dir=DIR --data_dir=OUT
    python -m tools.prepare_data --dataset=cc3m --raw_dir=DIR --data_dir=OUT --held_out=coco,flickr30k
    python -m tools.prepare_data --dataset=vqav2 --raw_dir=DIR --data_dir=OUT --min_answer_count=9
    python -m tools.prepare_data --dataset=msrvtt --raw_dir=DIR --data_dir=OUT --num_frames=8
    python -m tools.prepare_data --dataset=folder --raw_dir=DIR --data_dir=OUT --caption_column=words
    python -m tools.prepare_data --dataset=coco --raw_dir=DIR --data_dir=OUT --store_px=256
    python -m tools.prepare_data --dataset=cc12m --raw_dir=DIR --data_dir=OUT --min_side_px=200 --drop_near_duplicates
    python -m tools.prepare_data --dataset=cc12m --raw_dir=DIR --data_dir=OUT --ray_address=auto
    python -m tools.prepare_data --dataset=shapes --data_dir=OUT --num_train=16000

`--held_out` names data sets that are prepared already. A picture in one of their splits other than train, recognised by
its id in COCO or by its perceptual hash, is left out of the train split. The line at the end and the metadata of the
data set count the pictures left out; `held_out_copies.txt` beside the records lists them.

`--store_px` stores pictures whose shorter side is longer as smaller JPEGs or WebPs, so that training decodes less;
pictures that are smaller already, and those of other data sets, stay as they are.

Filters (`bridge_jax/data/filters.py`) leave pictures and captions out of the train split of `folder`, `cc3m` and
`cc12m`. The line at the end counts what each took, and what img2dataset could not fetch.

`--ray_address` has the nodes of a Ray cluster write the shards of tars (`bridge_jax/data/cluster.py`).

A preparation that stops leaves nothing behind; one of tars goes on with the same command, and takes up tars that were
added (`bridge_jax/data/tar_preparation.py`). A prepared data set is never overwritten.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import flags
from rich import progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from bridge_jax.config import ConfigError
from bridge_jax.data import fetch_stats, filters, held_out, prepared, processes, tar_preparation
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.encode import FORMATS, Stored
from bridge_jax.data.filters import Filters
from bridge_jax.data.processes import Workers
from bridge_jax.data.tar_preparation import Job, Progress
from bridge_jax.run import command_line
from tools import filter_options, folder_options

_DATASET = flags.DEFINE_string("dataset", None, "Name of a module in bridge_jax/data/datasets.")
_RAW_DIR = flags.DEFINE_string("raw_dir", "", "Folder with the raw images and captions; shapes needs none.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets.")
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train", 16000, "shapes: number of training scenes; it must be even.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "shapes: seed for the scenes.", lower_bound=0)
_NUM_ANSWERS = flags.DEFINE_integer(
    "num_answers", 3129, "vqav2: number of answers that a model chooses from.", lower_bound=1
)
_MIN_ANSWER_COUNT = flags.DEFINE_integer(
    "min_answer_count", 1, "vqav2: fewest questions for an answer to be kept.", lower_bound=1
)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", 12, "msrvtt: frames to keep of a video.", lower_bound=1)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Photos: processes for tars, threads for all else; without it, one a core.", lower_bound=1
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address", "", "Photos in tars: Ray cluster that prepares them, HOST:PORT, or auto on one of its nodes."
)
_HELD_OUT = flags.DEFINE_list(
    "held_out", [], "Photos: prepared data sets whose evaluation pictures to leave out of train."
)
_STORE_PX = flags.DEFINE_integer(
    "store_px", 0, "Photos: shorter side to store them at, at least that of the crops; 0: as they are.", lower_bound=0
)
_STORE_QUALITY = flags.DEFINE_integer(
    "store_quality", 90, "Photos: quality of the files that --store_px writes.", lower_bound=1, upper_bound=95
)
_STORE_FORMAT = flags.DEFINE_enum("store_format", FORMATS[0], FORMATS, "Photos: format of the files of --store_px.")


def prepare(
    dataset: str, data_dir: str, *, hold_out: Sequence[str] = (), ray_address: str = "", **arguments: Any
) -> str:
    """Write `dataset` under `data_dir` and return a line that describes it. Raises ConfigError.

    Pictures in splits other than train of the data sets `hold_out` are left out of the train split.
    """
    builder_class = prepared.builder_class(dataset, "--dataset")
    folder = prepared.folder(data_dir, builder_class)
    stored, workers = arguments.get("stored", Stored()), arguments.get("workers", 1)
    asked = _filters(builder_class, arguments)
    job = _job(builder_class, folder, arguments)
    if (folder / "dataset_info.json").is_file():
        builder = tfds.builder_from_directory(folder)
        held_out.check(_metadata(builder), hold_out, folder)
        _check_stored(_metadata(builder), stored, folder)
        filters.check_same(_metadata(builder), asked, folder)
        if job is None or not tar_preparation.is_open(job):
            again = "Delete the folder to prepare it anew"
            return f"{folder} is prepared already ({_sizes(builder)}); nothing done. {again}"
    elif job is None and folder.is_dir():
        raise ConfigError(f"{folder} was begun with tars: give --raw_dir with them to go on, or delete it")
    if ray_address and job is None:
        raise ConfigError("--ray_address: a cluster prepares tars, and --raw_dir holds none; leave the flag out")
    held = held_out.read(hold_out, data_dir, workers) if hold_out else None
    if job is not None:
        with _bar() as report:
            tar_preparation.prepare(job._replace(held_out=held), Workers(workers, ray_address), report)
        return f"{folder}: {_sizes(tfds.builder_from_directory(folder))}"
    if held:
        arguments["held_out"] = held
    builder = builder_class(data_dir=str(folder.parent.parent), file_format="array_record", **arguments)
    with tempfile.TemporaryDirectory() as unused:  # tfds wants a download folder even where nothing is downloaded
        builder.download_and_prepare(download_dir=unused)
    return f"{folder}: {_sizes(builder)}"


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """Show how far a preparation is, where stderr is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        rows: dict[str, progress.TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bar.add_task(what)
            bar.update(rows[what], completed=done, total=total)

        yield report


def _job(builder: type[tfds.core.ShardBasedBuilder], folder: Path, arguments: Mapping[str, Any]) -> Job | None:
    """Return the preparation of the tars in the raw folder, or None where it has another form or is not there."""
    raw = Path(arguments.get("raw_dir", "")).expanduser()
    if not issubclass(builder, photo_builder.Builder) or not raw.is_dir():
        return None
    tars = builder.tars(raw, **{key: arguments[key] for key in ("options",) if key in arguments})
    stored, asked = arguments.get("stored", Stored()), arguments.get("filters", Filters())
    return None if tars is None else Job(builder, folder, raw, tars, stored, None, asked)


def _filters(builder: type[tfds.core.ShardBasedBuilder], arguments: dict[str, Any]) -> Filters:
    """Return the filters that are asked for. Raises ConfigError where the data set has none."""
    asked = arguments.get("filters", Filters())
    if asked.on and not (issubclass(builder, photo_builder.Builder) and builder.FILTERED):
        raise ConfigError(
            f"--{asked.names[0]}: the pictures of {builder.name!r} were chosen by its authors, and are all kept; "
            "leave the flag out"
        )
    return asked


def _sizes(builder: tfds.core.DatasetBuilder) -> str:
    sizes = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    return sizes + "".join(part.summary(_metadata(builder)) for part in (held_out, filters, fetch_stats))


def _check_stored(metadata: Mapping[str, Any], stored: Stored, folder: Path) -> None:
    there = {key: metadata[key] for key in metadata if key.startswith("store_")}
    if there:  # sets prepared before there was a choice lack it
        there.setdefault("store_format", FORMATS[0])
    if stored.px and stored.metadata != there:
        raise ConfigError(
            f"--store_px: {folder} was prepared with {there or 'pictures as they are'}; delete the folder to prepare "
            "it anew"
        )


def _metadata(builder: tfds.core.DatasetBuilder) -> Mapping[str, Any]:
    return builder.info.metadata or {}


def main(argv: list[str]) -> None:
    del argv
    dataset, data_dir = command_line.required(_DATASET), command_line.required(_DATA_DIR)
    prepared.builder_class(dataset, "--dataset")  # report a misspelt name before a missing --raw_dir
    if dataset == "shapes" and _HELD_OUT.value:
        raise ConfigError("--held_out: data set 'shapes' has no photos; leave the flag out")
    if dataset == "shapes":
        arguments: dict[str, Any] = {"num_train": _NUM_TRAIN.value, "seed": _SEED.value}
    elif _RAY_ADDRESS.value and _NUM_WORKERS.value:
        raise ConfigError("--num_workers: the cluster of --ray_address has its own cores; leave one of the two out")
    elif not _RAW_DIR.value:
        raise ConfigError(f"--raw_dir is missing: give the folder with the raw files of {dataset!r}")
    else:
        workers = _NUM_WORKERS.value or processes.usable_cores()
        stored = Stored(_STORE_PX.value, _STORE_QUALITY.value, _STORE_FORMAT.value)
        if stored.format != FORMATS[0] and not stored.px:
            raise ConfigError(f"--store_format={stored.format} needs --store_px: give the side to store pictures at")
        arguments = {"raw_dir": _RAW_DIR.value, "workers": workers, "hold_out": _HELD_OUT.value}
        arguments |= {"stored": stored, "filters": filter_options.given()}
        if dataset == "msrvtt":
            arguments |= {"num_frames": _NUM_FRAMES.value}
        if dataset == "folder":
            arguments |= {"options": folder_options.given()}
        if dataset == "vqav2":
            arguments |= {"num_answers": _NUM_ANSWERS.value, "min_answer_count": _MIN_ANSWER_COUNT.value}
    print(prepare(dataset, data_dir, ray_address=_RAY_ADDRESS.value, **arguments))


if __name__ == "__main__":
    command_line.run(main)
