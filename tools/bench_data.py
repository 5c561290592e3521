"""Benchmark how training reads: python -m tools.bench_data --config=configs/coco.py

Each part of the pipeline is timed alone, in one thread, on records of the prepared split: `read` a record, `view`
(crop, decode, resize, mirror), `augment` it (RandAugment, where the config has it), `tokenise` a caption, the `rest` of
an example (drawing, masking), `batch` (stacking rows) and `transfer` to the device. Prints the pairs/s of each, its
share of a pair's time, and the pairs/s of the whole pipeline with the threads and processes of the config.

With --pairs_per_second, the rate of a chip as tools.plan prints it, it says how many cores feed one. Beside that stands
the rate at which simplejpeg decodes the same files, at a draft size that is enough for the crop (the extra `rivals`).

Run nothing else on the machine meanwhile.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from bridge_jax import types
from bridge_jax.config import Config, ConfigError, Stage, nearest, objectives
from bridge_jax.data import augment, image, pipeline, records, text
from bridge_jax.run import command_line
from tools import figures

_CONFIG = command_line.define_config()
_STAGE = flags.DEFINE_string("stage", "", "The stage whose examples are made; without it, the first.")
_PAIRS = flags.DEFINE_integer("pairs", 256, "Records to time each part on, spread over the split.", lower_bound=1)
_NEEDED = flags.DEFINE_float("pairs_per_second", 0.0, "The rate of a chip; 0: unknown.", lower_bound=0.0)
_console = Console(soft_wrap=True, highlight=False)


def seconds(each: Callable[[int], object], count: int) -> float:
    """Return the seconds that `each(0)`, `each(1)`, ... take on average. The first call is not timed."""
    each(0)
    started = time.perf_counter()
    for number in range(count):
        each(number)
    return (time.perf_counter() - started) / count


def parts(cfg: Config, stage: Stage, every: Sequence[records.Record], rows: Sequence[int]) -> dict[str, float]:
    """Return the seconds that each part of the pipeline takes for a pair."""
    data, px, draw = cfg.data, cfg.vision.image_px, np.random.default_rng(0)
    found = [every[row] for row in rows]
    wanted = objectives.pictures(cfg, stage)
    encoded = [records.pictures(record, wanted) for record in found]
    plain, tokenizer = dataclasses.replace(data, randaugment_layers=0), text.load(data, cfg.text)
    lines = [records.texts(record)[0] for record in found]
    make, count = pipeline.Examples(cfg, stage, every), len(rows)

    def view(n: int) -> list[np.ndarray]:
        return [image.train_view(each, px, plain, True, draw) for each in encoded[n]]

    def augmented(n: int) -> None:
        for pixels in views[n]:
            augment.rand_augment(pixels, data.randaugment_layers, data.randaugment_magnitude, draw)

    views = [view(n) for n in range(count)]
    spent = {"read": seconds(lambda n: every[rows[n]], count), "view": seconds(view, count)}
    if data.randaugment_layers:
        spent["augment"] = seconds(augmented, count)
    spent["tokenise"] = seconds(lambda n: tokenizer.encode([lines[n]]), count)
    spent["rest"] = max(0.0, seconds(lambda n: make(rows[n], draw), count) - sum(spent.values()))
    size = min(count, stage.batch_size)
    examples = [make(row, draw) for row in rows[:size]]

    def stacked(_: int) -> types.Batch:
        return types.Batch.from_arrays({name: np.stack([each[name] for each in examples]) for name in examples[0]})

    batch = stacked(0)
    spent["batch"] = seconds(stacked, 5) / size
    spent["transfer"] = seconds(lambda _: jax.block_until_ready(jax.device_put(batch.arrays())), 5) / size
    return spent


def whole(cfg: Config, stage: Stage, pairs: int) -> float:
    """Return the pairs/s of the pipeline as training runs it."""
    count = max(4 * cfg.data.prefetch_batches, pairs // stage.batch_size)
    batches = pipeline.batches(pipeline.train(cfg, stage, seed_stream="bench"), 0, cfg.data)
    for _ in range(1 + cfg.data.prefetch_batches):  # what was read ahead does not count
        next(batches)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    rate = count * stage.batch_size / (time.perf_counter() - started)
    batches.close()
    return rate


def decoded(found: Sequence[bytes], px: int, ours: float) -> str:
    """Return the pictures/s at which simplejpeg decodes JPEGs alone, to `px` or more; `ours` are views/s."""
    try:
        import simplejpeg
    except ModuleNotFoundError:
        return "no simplejpeg to compare with: pip install 'bridge_jax[rivals]'"
    jpegs = [each for each in found if simplejpeg.is_jpeg(each)]
    if not jpegs:
        return "no JPEG among these pictures to compare simplejpeg on"
    rate = 1 / seconds(lambda n: simplejpeg.decode_jpeg(jpegs[n], min_height=px, min_width=px), len(jpegs))
    figures.keep("views/s a core", ours, figures.MORE, "simplejpeg, no crop", rate)
    return f"simplejpeg decodes {rate:.0f} of these pictures/s a core, without crop and resize"


def main(argv: list[str]) -> None:
    """Time each stage and the whole, and print the table."""
    del argv
    cfg = command_line.read_config(_CONFIG)
    name = _STAGE.value or cfg.stage_order[0]
    if name not in cfg.stages:
        raise ConfigError(f"--stage: no stage {name!r}; {nearest(name, cfg.stages)}")
    stage, every = cfg.stages[name], pipeline.open_training(cfg.data)
    rows = np.unique(np.linspace(0, len(every) - 1, _PAIRS.value).round().astype(int)).tolist()
    spent = parts(cfg, stage, every, rows)
    total = sum(spent.values())
    table = Table(title=f"{cfg.data.dataset or 'the mixture'}, stage {name}: one thread of each")
    for title in ("part", "pairs/s a core", "share"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for part, took in spent.items():
        table.add_row(part, f"{1 / took:,.0f}" if took else "", f"{100 * took / total:.0f} %")
    table.add_row("all", f"{1 / total:,.0f}", "100 %")
    _console.print(table)
    _console.print(f"the slowest is {max(spent, key=lambda part: spent[part])!r}")
    cores, data = len(os.sched_getaffinity(0)), cfg.data
    processes = f"{data.workers} processes of {data.threads}" if data.workers else f"{data.threads}"
    rate = whole(cfg, stage, _PAIRS.value)
    _console.print(f"the pipeline: {rate:,.0f} pairs/s on {cores} cores, {processes} threads")
    figures.keep(f"pairs/s of {name}'s pipeline", rate, figures.MORE)
    if _NEEDED.value:
        _console.print(f"a chip at {_NEEDED.value:,.0f} pairs/s needs {_NEEDED.value * total:.1f} cores")
    encoded = [records.pictures(every[row], 1)[0] for row in rows]
    _console.print(decoded(encoded, cfg.vision.image_px, 1 / spent["view"]))


if __name__ == "__main__":
    command_line.run(main)
