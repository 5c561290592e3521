"""Plan a run on TPUs that are not here: python -m tools.plan --config=configs/coco.py --topology=v5e:16x16

Compiles every stage's training step for a slice with the TPU's own compiler, which needs no TPU but the extra `tpu`.
Prints memory a chip, FLOPs, traffic and collectives, and which of them bounds the step. Several topologies make one
table. `--fit` finds the most pairs a chip that fit, for every way to rematerialise.
"""

import dataclasses
import json
from pathlib import Path

import jax
from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from bridge_jax.config import Config, ConfigError, Stage
from bridge_jax.plan import chips, planner
from bridge_jax.plan.chips import GIB, Chip
from bridge_jax.plan.planner import Plan
from bridge_jax.run import command_line

_CONFIG = command_line.define_config()
_TOPOLOGY = flags.DEFINE_list("topology", [], "Slices, such as v5e:16x16,v5p:4x4x4. Chips: v4, v5e, v5p, v6e.")
_STAGE = flags.DEFINE_list("stage", [], "Stages to plan; without it, all of config.stage_order.")
_PAIRS = flags.DEFINE_integer("pairs_per_chip", 0, "Pairs a chip; 0: as each stage's batch_size says.", lower_bound=0)
_FIT = flags.DEFINE_bool("fit", False, "Find the most pairs a chip that fit. Compiles up to fifteen programs a stage.")
_JSON = flags.DEFINE_string("json", "", "File to write the plans to, as JSON.")
_HTML = flags.DEFINE_string("html", "", "File to write the printed text to, as HTML.")
_MARKDOWN = flags.DEFINE_string("markdown", "", "File to write the table to, as Markdown.")
_console = Console(soft_wrap=True, highlight=False, record=True, width=132)

COLUMNS = ("slice", "stage", "remat", "pairs/chip", "GiB/chip", "x model", "compute ms", "HBM ms", "links ms",
           "pairs/s", "MFU %", "chip-h", "compile s")  # fmt: skip


def main(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_platforms", "cpu")  # libtpu compiles; a TPU of this machine stays free
    jax.config.update("jax_enable_compilation_cache", False)  # it loads programs onto devices, and there are none
    cfg = command_line.read_config(_CONFIG)
    if not _TOPOLOGY.value:
        raise ConfigError("--topology is missing: give a slice, such as v5e:16x16")
    unknown = set(_STAGE.value) - set(cfg.stage_order)
    if unknown:
        raise ConfigError(f"--stage: {min(unknown)!r} is unknown; expected some of {', '.join(cfg.stage_order)}")
    rows, plans = [], []
    for topology in _TOPOLOGY.value:
        chip, devices = chips.slice_of(topology)
        for name in _STAGE.value or cfg.stage_order:
            for plan in _plans(cfg, cfg.stages[name], chip, devices):
                _say(cfg, topology, chip, plan)
                rows.append(_row(cfg, topology, chip, plan))
                plans.append({"topology": topology, **dataclasses.asdict(plan)})
    _console.print(_table(rows))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(plans, indent=1) + "\n")
    if _HTML.value:
        _console.save_html(_HTML.value)
    if _MARKDOWN.value:
        lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
        Path(_MARKDOWN.value).write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def _table(rows: list[list[str]]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, no_wrap=True, justify="left" if name in COLUMNS[:3] else "right")
    for row in rows:
        table.add_row(*row)
    table.caption = "upper bound: the step takes at least as long as the slowest of compute, HBM and links"
    return table


def _plans(cfg: Config, stage: Stage, chip: Chip, devices: list) -> list[Plan]:
    if _FIT.value:
        plans = list(planner.fit(cfg, stage, chip, devices))
        if not plans:
            raise planner.DoesNotFit(f"stage {stage.name}: not even 8 pairs a chip fit; raise config.mesh.fsdp")
        return plans
    tried = planner.with_pairs(cfg, _PAIRS.value, devices) if _PAIRS.value else cfg
    return [planner.plan(tried, tried.stages[stage.name], chip, devices)]


def _run(cfg: Config, chip: Chip, plan: Plan) -> tuple[float, float, float]:
    """Return pairs/s, MFU, and hours for all pairs of the config's stage, each at the bound."""
    rate = plan.batch_size / plan.secs
    stage = cfg.stages[plan.stage]
    return rate, plan.model_flops / plan.secs / chip.flops, stage.steps * stage.batch_size / rate / 3600


def _say(cfg: Config, topology: str, chip: Chip, plan: Plan) -> None:
    memory, (rate, mfu, hours) = plan.memory, _run(cfg, chip, plan)
    state, work, code, peak = (x / GIB for x in (memory.state, memory.temporaries, memory.code, memory.peak))
    capacity = chip.hbm_bytes / GIB
    host = f"TRANSFERS TO THE HOST: {', '.join(plan.host_transfers)}" if plan.host_transfers else "none to the host"
    lines = [
        f"\n{topology}, stage {plan.stage}: {plan.pairs} pairs a chip, {plan.batch_size:,} in the batch, "
        f"remat {plan.remat}, compiled in {plan.compile_secs:.0f} s",
        f"  memory      {peak:.2f} GiB a chip of {capacity:.2f} ({100 * peak / capacity:.0f} %): "
        f"state {state:.2f} ({100 * memory.donated / memory.state:.0f} % written over), temporaries {work:.2f}, "
        f"code {code:.2f}",
        f"  products    {plan.compiled_flops / 1e12:.3f} TFLOP a chip, {plan.compiled_flops / plan.model_flops:.2f} "
        f"times the model's {plan.model_flops / 1e12:.3f}; "
        f"{f'{plan.kernels} kernels, a loop counted once' if plan.kernels else 'no kernels'}",
        f"  traffic     {_short(plan.hbm_bytes / 1e9)} GB of HBM a chip; {host}",
        f"  roofline    compute {_short(1e3 * plan.compute_secs)} ms, memory {_short(1e3 * plan.memory_secs)} ms, "
        f"interconnect {_short(1e3 * plan.interconnect_secs)} ms "
        f"({100 * plan.interconnect_secs / plan.secs:.1f} % of the bound): {plan.bound} binds",
        f"  at most     {rate:,.0f} pairs/s, {100 * mfu:.0f} % MFU; all of the stage's pairs in {_short(hours)} h, "
        f"{_short(hours * plan.chips)} chip-hours",
    ]
    for item in plan.traffic:
        lines.append(
            f"  {item.op:<18} over {item.axes} ({item.chips} chips), {item.count} a step: {item.bytes / 1e6:.3g} MB, "
            f"the greatest {item.greatest}, {1e3 * item.seconds:.3g} ms"
        )
    _console.print("\n".join(lines), markup=False)


def _row(cfg: Config, topology: str, chip: Chip, plan: Plan) -> list[str]:
    rate, mfu, hours = _run(cfg, chip, plan)
    return [
        topology,
        plan.stage,
        plan.remat,
        str(plan.pairs),
        f"{plan.memory.peak / GIB:.2f}",
        f"{plan.compiled_flops / plan.model_flops:.2f}",
        _short(1e3 * plan.compute_secs),
        _short(1e3 * plan.memory_secs),
        _short(1e3 * plan.interconnect_secs),
        f"{rate:,.0f}",
        f"{100 * mfu:.0f}",
        _short(hours * plan.chips),
        f"{plan.compile_secs:.0f}",
    ]


def _short(value: float) -> str:
    """Return a number with one decimal, or with two digits below 1, as small models have."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


if __name__ == "__main__":
    command_line.run(main)
