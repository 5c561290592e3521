"""Find the faults of a data set, raw or prepared, before a run meets them.

    python -m tools.doctor --dataset=flickr8k --raw_dir=DIR
    python -m tools.doctor --dataset=flickr8k --data_dir=data --vocabulary=data/minilm/vocab.txt --json=flickr8k.json

Every picture is read and decoded. A finding is *broken* where the preparation or a run would refuse it or leave it out,
where two pictures have one image id, and where two splits hold the same bytes (near duplicates are not looked for). All
other findings are warnings. Lengths in tokens and unknown words need --vocabulary, or a data set that stores its own.
The terminal shows the first names of each finding, `--json` writes them all. Nothing is changed. For --dataset=folder,
`--fix=cleaned.csv` writes a list of what can be used, which `tools.prepare_data --list=cleaned.csv` reads; a picture of
train that another split has too is left out.

Exit code 0: nothing found; 1: warnings; 2: something is broken, or the data set cannot be examined, with one line that
says why.
"""

import csv
import functools
import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console

from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, prepared, text
from bridge_jax.data.datasets import folder, photo_builder
from bridge_jax.data.datasets.photo_builder import Survey
from bridge_jax.data.doctor import Finding, Report
from bridge_jax.run import command_line, terminal
from bridge_jax.workdir import atomic
from tools import folder_options

_DATASET = flags.DEFINE_string("dataset", None, "Name of a module in bridge_jax/data/datasets.")
_RAW_DIR = flags.DEFINE_string(
    "raw_dir", "", "Folder with the raw images and captions, as tools.prepare_data reads it."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the prepared data sets; give it or --raw_dir.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocab.txt or tokenizer.json.")
_LENGTH = flags.DEFINE_integer("length", 30, "Most tokens in a caption, as in config.text.length.", lower_bound=3)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Threads to read and decode images with.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File to write all findings with all names to.")
_FIX = flags.DEFINE_string("fix", "", "folder: name of a new list in --raw_dir, of what can be used.")
_SHOWN = 5  # names printed for a finding
_console = Console(soft_wrap=True, highlight=False)


def look(dataset: str, raw_dir: str, data_dir: str, vocabulary: str, length: int, workers: int) -> Report:
    """Examine the raw data set in `raw_dir`, or the one prepared under `data_dir`. Raises ConfigError."""
    builder = prepared.builder_class(dataset, "--dataset")
    if bool(raw_dir) == bool(data_dir):
        raise ConfigError(
            "expected one of --raw_dir (raw files) and --data_dir (prepared data), got both or neither; give one"
        )
    if data_dir:
        place = prepared.prepared(builder, data_dir, "--data_dir")
        source, stored = doctor.prepared(place), place / prepared.VOCABULARY
        vocabulary = vocabulary or (str(stored) if stored.is_file() else "")
    elif issubclass(builder, photo_builder.Builder):
        source = doctor.raw(_survey(builder), Path(raw_dir).expanduser())
    else:
        raise ConfigError(f"--raw_dir: {dataset!r} has no raw files; give --data_dir")
    tokenizer = text.Tokenizer(Path(vocabulary).expanduser(), length) if vocabulary else None
    if tokenizer is None:
        _say("no --vocabulary: lengths in tokens and unknown words are not checked")
    with terminal.progress() as bar, terminal.task(bar, f"examining {dataset}") as progress:
        return doctor.examine(source, builder, tokenizer, workers, progress, list_usable=bool(_FIX.value))


def _survey(builder: type[photo_builder.Builder]) -> Survey:
    if not issubclass(builder, folder.Builder):
        return builder.survey
    return functools.partial(builder.survey, options=folder_options.given())


def write_list(report: Report, raw: Path, name: str) -> str:
    """Write a list of what can be used to a new file of the raw folder, and return a line that describes it."""
    file = raw / name
    if file.exists() or file.suffix != ".csv" or photo_builder.leaves(name):
        raise ConfigError(f"--fix: expected the name of a new .csv in {raw}, got {name!r}")
    rows = [("image", "caption", "split")]
    for one in report.usable:
        if not Path(one.name).is_file():
            raise ConfigError(f"--fix: {one.name} lies inside another file, and a list names files; unpack it")
        picture = str(Path(one.name).relative_to(raw))
        rows += [(picture, caption, one.split) for caption in one.captions]
    content = io.StringIO(newline="")
    csv.writer(content).writerows(rows)
    atomic.write_text(file, content.getvalue())
    return f"{file}: {len(report.usable):,} pictures, {len(rows) - 1:,} captions; prepare them with --list={name}"


def show(report: Report) -> None:
    """Print every finding with its first names, and a line that counts the findings."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in report.sizes.items())
    _say(f"{sum(report.sizes.values()):,} pictures ({sizes}), {report.captions:,} captions and questions")
    for finding in report.findings:
        share = f" of {finding.total:,} ({100 * finding.count / finding.total:.2g} %)" if finding.total else ""
        level, style = ("broken", "red") if finding.broken else ("warning", "yellow")
        _say(f"\n{level}: {finding.kind}: {finding.count:,}{share}, {finding.says}", style)
        for name in finding.names[:_SHOWN]:
            _say(f"    {name}")
        if (more := len(finding.names) - _SHOWN) > 0:
            _say(f"    and {more:,} more; --json=FILE lists all")
    broken = sum(finding.broken for finding in report.findings)
    warnings = len(report.findings) - broken
    counts = [f"{broken} broken"] * (broken > 0) + [f"{warnings} warning{'s' * (warnings > 1)}"] * (warnings > 0)
    _say(f"\n{', '.join(counts) or 'nothing found'}")


def _say(line: str, style: str = "") -> None:
    printable = line.encode(errors="backslashreplace").decode()  # a name may end within a character
    _console.print(printable, markup=False, style=style)


def _as_json(finding: Finding) -> dict[str, Any]:
    level = "broken" if finding.broken else "warning"
    counted = {"kind": finding.kind, "count": finding.count, "of": finding.total, "names": finding.names}
    return {"level": level, "says": finding.says} | counted


def main(argv: list[str]) -> None:
    """Print the findings, write the JSON, and exit with the code of the worst finding."""
    del argv
    jax.config.update("jax_platforms", "cpu")  # the bar asks jax for its process; a chip stays free for a run
    dataset = command_line.required(_DATASET)
    if _FIX.value and (dataset != folder.Builder.name or not _RAW_DIR.value):
        raise ConfigError("--fix writes a list for --dataset=folder and --raw_dir; leave it out")
    report = look(dataset, _RAW_DIR.value, _DATA_DIR.value, _VOCABULARY.value, _LENGTH.value, _NUM_WORKERS.value)
    show(report)
    if _FIX.value:
        _say(write_list(report, Path(_RAW_DIR.value).expanduser(), _FIX.value))
    if _JSON.value:
        record = {"dataset": dataset, "folder": _RAW_DIR.value or _DATA_DIR.value, "exit_code": report.exit_code}
        record |= {"splits": report.sizes, "captions": report.captions}
        record |= {"findings": [_as_json(finding) for finding in report.findings]}
        Path(_JSON.value).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.exit(report.exit_code)


if __name__ == "__main__":
    command_line.run(main)
