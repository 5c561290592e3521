"""--dry_run: how large a config's model is, what each stage trains, and what a step costs, without training.

One screen. Parameters, batches and FLOPs are read from shapes and from the traced step; memory and the seconds are
those of each stage's own step, compiled for the devices that are here. The compiler takes nearly all of the time (114
of 140 s of processor time for configs/shapes.py), so its programs are kept where a run keeps its own
(config.cache_dir), and the next dry run reads them instead of compiling again.
"""

import contextlib
import dataclasses
import textwrap
import time
from collections.abc import Iterator

from jax import monitoring
from jax.sharding import Mesh
from rich import box
from rich.console import Console
from rich.table import Table

from bridge_jax import paths
from bridge_jax.config import Config, Stage
from bridge_jax.plan import planner
from bridge_jax.plan.chips import GIB
from bridge_jax.step import flops, optim, sharding, train_step
from bridge_jax.step.params import param_shapes
from bridge_jax.types import Batch

COLUMNS = 100  # of the widest line
PARTS = ("vision", "text", "bridge", "heads", "decoder", "loss_weights")  # the order of the table
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Count:
    """How many parameters, in how many arrays."""

    parameters: int
    arrays: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """A stage's step on the devices that are here."""

    batch: Batch  # the shapes of the global batch
    flops: float  # of the whole batch, with all that is computed twice
    kernels: int  # in the program, a loop counted once (config.blocks.kernels)
    peak_bytes: int  # of one device
    compile_secs: float
    kept: bool  # the program was compiled before, and read in these seconds


def report(cfg: Config) -> None:
    """Print the parameters by part and by stage, and per stage the batch and the cost of its compiled step.

    Raises ConfigError where a rule does not fit the parameters, or a batch the devices.
    """
    console = Console(highlight=False)
    console.width = min(COLUMNS, console.width) if console.is_terminal else COLUMNS
    programs = train_step.keep_programs(cfg)
    mesh = sharding.make_mesh(cfg.mesh)
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    console.print(f"{_many(mesh.size, 'device')} ({mesh.devices.flat[0].platform}), mesh {sizes}\n", markup=False)
    console.print("parameters in millions: all, then those that each stage trains")
    console.print(_table(cfg))
    known = list(paths.flatten(param_shapes(cfg)))
    for stage in cfg.run_stages:
        trained, frozen = trains(cfg, stage)
        console.print(
            f"\nstage {stage.name}: trains {trained.arrays} of {len(known)} arrays, {_millions(trained.parameters)} "
            f"million parameters; {_millions(frozen.parameters) + ' million' if frozen.arrays else 'none'} frozen",
            markup=False,
        )
        with console.status(f"compiling the step of stage {stage.name}"):
            cost = cost_of(cfg, stage, mesh)
        for line in _lines(stage, cost, cfg.blocks.kernels, console.width):
            console.print(line, markup=False)
    console.print(f"\nCompiled programs are kept in {programs}: the next dry run reads them.", markup=False)
    console.print(f"python -m tools.show_params with the same --config lists all {len(known)} arrays.", markup=False)


def parts(cfg: Config) -> dict[str, Count]:
    """Return the parameters of each part of the model: both towers, bridge, heads, decoder, loss weights."""
    flat = paths.flatten(param_shapes(cfg))
    names = sorted({_part(path) for path in flat}, key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))
    return {name: _count(cfg, [path for path in flat if _part(path) == name]) for name in names}


def trains(cfg: Config, stage: Stage) -> tuple[Count, Count]:
    """Return the parameters that a stage trains, and those that it leaves as they are. Raises ConfigError."""
    known = list(paths.flatten(param_shapes(cfg)))
    trainable = set(optim.trainable_paths(cfg, stage, known))
    return _count(cfg, trainable), _count(cfg, [path for path in known if path not in trainable])


def cost_of(cfg: Config, stage: Stage, mesh: Mesh) -> Cost:
    """Trace a stage's step once, compile it, and return what it costs."""
    step, state, batch = planner.step_of(cfg, stage, mesh)
    traced = step.trace(state, batch)
    lowered = traced.lower()
    with _cache_hits() as hits:
        started = time.monotonic()
        compiled = lowered.compile()
        seconds = time.monotonic() - started
    return Cost(
        batch=batch,
        flops=flops.flops_in(traced.jaxpr),
        kernels=flops.kernels_in(traced.jaxpr),
        peak_bytes=planner.memory_of(compiled).peak,
        compile_secs=seconds,
        kept=bool(hits),
    )


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """Collect one item for each program that is read from the cache of compiled programs."""
    hits: list[str] = []

    def listen(event: str, **_: str | int) -> None:
        if event == _CACHE_HIT:
            hits.append(event)

    monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        monitoring.unregister_event_listener(listen)


def _table(cfg: Config) -> Table:
    """Return the table of parameters: a row for each part, and a column for all, then for what each stage trains."""
    flat = paths.flatten(param_shapes(cfg))
    trainable = [set(optim.trainable_paths(cfg, stage, flat)) for stage in cfg.run_stages]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for header in ("part", "arrays", "all", *cfg.stage_order):
        table.add_column(header, justify="left" if header == "part" else "right")
    counts = parts(cfg)
    for part, count in counts.items():
        trained = [_count(cfg, [path for path in names if _part(path) == part]).parameters for names in trainable]
        table.add_row(part, str(count.arrays), *map(_millions, (count.parameters, *trained)))
    table.add_section()
    trained, frozen = zip(*(trains(cfg, stage) for stage in cfg.run_stages), strict=True)
    sums = (sum(count.parameters for count in counts.values()), *(count.parameters for count in trained))
    table.add_row("all parts", str(len(flat)), *map(_millions, sums))
    table.add_row("frozen", "", "", *(_millions(count.parameters) for count in frozen))
    return table


def _lines(stage: Stage, cost: Cost, setting: str, width: int) -> list[str]:
    """Return the lines that say what a stage's step reads and costs."""
    shown = [f"{name}: {leaf.dtype}{list(leaf.shape)}" for name, leaf in cost.batch.arrays().items()]
    fields = [text.replace(" ", "\xa0") for text in shown]  # to textwrap a letter: no line ends inside a field
    text = f"{stage.batch_size} pairs in {_many(stage.microbatches, 'part')}: {', '.join(fields)}"
    batch = textwrap.wrap(text, width, initial_indent="  batch  ", subsequent_indent="         ")
    seconds, peak = f"{cost.compile_secs:.1f} s", cost.peak_bytes / GIB
    when = f"compiled before, read in {seconds}" if cost.kept else f"compiled in {seconds}"
    kernels = f"{cost.kernels}, a loop counted once" if cost.kernels else "none"
    return [
        *(line.replace("\xa0", " ") for line in batch),
        f"  cost   {_short(cost.flops / 1e9)} GFLOP a step, peak memory {peak:.2f} GiB a device; {when}",
        f"  kernels {kernels} (config.blocks.kernels = {setting!r})",
    ]


def _part(path: str) -> str:
    return path.partition("/")[0]


def _count(cfg: Config, names: set[str] | list[str]) -> Count:
    flat = paths.flatten(param_shapes(cfg))
    return Count(parameters=sum(flat[name].size for name in names), arrays=len(names))


def _millions(count: int) -> str:
    """Return a count in millions; `-` for none, and `<0.001` where three decimals would say none."""
    if count == 0:
        return "-"
    return f"{count / 1e6:,.3f}" if count >= 500 else "<0.001"


def _short(value: float) -> str:
    """Return a number with one decimal, or where it is less than one with two digits: small models have small ones."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
