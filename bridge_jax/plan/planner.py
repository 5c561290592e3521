"""Plan a stage on a machine that may be absent: compile the training step itself, and read its cost from the program.

The times are rooflines, each as if nothing else ran: products at the chip's peak, HBM traffic at its bandwidth,
collectives at the bandwidth of the links they use. The greatest of them is a lower bound: no run is faster.
"""

import dataclasses
import itertools
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bridge_jax.config import Blocks, Config, ConfigError, Stage, check
from bridge_jax.plan import hlo
from bridge_jax.plan.chips import GIB, Chip
from bridge_jax.step import flops, sharding, train_step
from bridge_jax.step.batch import abstract_batch
from bridge_jax.step.params import abstract_params
from bridge_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM on one chip."""

    state: int  # parameters, optimizer state and batch
    temporaries: int
    code: int
    donated: int  # part of the state that the new state overwrites
    peak: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind between the same chips, in one step, per chip."""

    op: str
    axes: str  # mesh axes that they span, "data+fsdp", or "?" if the chips lie along none
    chips: int  # chips that one collective spans
    count: int
    bytes: int
    greatest: str  # shape of the greatest array
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a stage's step on a machine. FLOPs, bytes and seconds are those of one step on one chip."""

    stage: str
    remat: str
    chips: int
    pairs: int  # pairs of one chip
    batch_size: int
    compile_secs: float
    memory: Memory
    model_flops: float  # FLOPs of the products in the config's step, with nothing computed twice
    compiled_flops: float
    kernels: int  # in the program, a loop counted once
    hbm_bytes: float
    traffic: tuple[Traffic, ...]
    host_transfers: tuple[str, ...]
    compute_secs: float
    memory_secs: float
    interconnect_secs: float

    @property
    def secs(self) -> float:
        return max(self.compute_secs, self.memory_secs, self.interconnect_secs)

    @property
    def bound(self) -> str:
        times = {k: getattr(self, f"{k}_secs") for k in ("compute", "memory", "interconnect")}
        return max(times, key=lambda name: times[name])


class DoesNotFit(ConfigError):
    """A step needs more memory than a chip has."""


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """A stage's step, compiled for a mesh."""

    cfg: Config
    stage: Stage
    mesh: Mesh
    step: Any
    kernels: int
    seconds: float  # that the compiler took

    @property
    def pairs(self) -> int:
        return self.stage.batch_size // sharding.row_parts(self.mesh)


def plan(cfg: Config, stage: Stage, chip: Chip, devices: list[Any]) -> Plan:
    """Compile a stage's step for a slice and return its cost. Raises ConfigError, and DoesNotFit if memory is short."""
    return _plan(_compile(cfg, stage, devices), chip)


def _compile(cfg: Config, stage: Stage, devices: list[Any]) -> _Compiled:
    mesh = sharding.make_mesh(cfg.mesh, devices)
    step, *arguments = step_of(cfg, stage, mesh)
    traced = step.trace(*arguments)
    lowered = traced.lower()
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _does_not_fit(cfg, stage, mesh, error) from error
    return _Compiled(cfg, stage, mesh, compiled, flops.kernels_in(traced.jaxpr), time.monotonic() - started)


def _plan(compiled: _Compiled, chip: Chip) -> Plan:
    cfg, stage, mesh = compiled.cfg, compiled.stage, compiled.mesh
    program = hlo.read(compiled.step.as_text())
    traffic = _traffic(program, mesh, chip)
    return Plan(
        stage=stage.name,
        remat=cfg.blocks.remat,
        chips=mesh.size,
        pairs=compiled.pairs,
        batch_size=stage.batch_size,
        compile_secs=compiled.seconds,
        memory=memory_of(compiled.step),
        model_flops=model_flops(cfg, stage, mesh) / mesh.size,
        compiled_flops=program.flops,
        kernels=compiled.kernels,
        hbm_bytes=program.hbm_bytes,
        traffic=traffic,
        host_transfers=program.host_transfers,
        compute_secs=program.flops / chip.flops,
        memory_secs=program.hbm_bytes / chip.hbm_rate,
        interconnect_secs=sum(t.seconds for t in traffic),
    )


def fit(cfg: Config, stage: Stage, chip: Chip, devices: list[Any]) -> Iterator[Plan]:
    """Yield, for every way to rematerialise, the plan with the most pairs per chip that fit, in steps of 8.

    At most five programs are compiled for each; the memory of a pair is estimated from those compiled so far.
    """
    for remat in ("none", "dots", "full"):
        tried = dataclasses.replace(cfg, blocks=dataclasses.replace(cfg.blocks, remat=remat))
        best, over, pairs, limit = None, None, 8, 2**30
        for _ in range(5):
            try:
                more = with_pairs(tried, pairs, devices)
                result = _compile(more, more.stages[stage.name], devices)
            except DoesNotFit:
                limit = pairs
            else:
                fits = memory_of(result.step).peak <= chip.hbm_bytes
                best, over, limit = (result, over, limit) if fits else (best, result, pairs)
            if best is None:
                break
            memory = memory_of(best.step)
            pair_bytes = memory.temporaries / best.pairs
            if over is not None:
                pair_bytes = (memory_of(over.step).peak - memory.peak) / (over.pairs - best.pairs)
            pairs = best.pairs + int((chip.hbm_bytes - memory.peak) / pair_bytes)
            pairs = min(pairs, limit - 1) // 8 * 8
            if pairs <= best.pairs:
                break
        if best is not None:
            yield _plan(best, chip)


def with_pairs(cfg: Config, pairs: int, devices: list[Any]) -> Config:
    """Return the config with `pairs` pairs per chip in every stage. Raises ConfigError."""
    rows = pairs * sharding.row_parts(sharding.make_mesh(cfg.mesh, devices))
    stages = {name: dataclasses.replace(stage, batch_size=rows) for name, stage in cfg.stages.items()}
    changed = dataclasses.replace(cfg, stages=stages)
    check(changed)
    return changed


def step_of(cfg: Config, stage: Stage, mesh: Mesh) -> tuple[Any, train_step.TrainState, Batch]:
    """Return a stage's jitted step for a mesh, and the shapes of its arguments."""
    step = train_step.build(cfg, stage, 0, mesh)
    params = abstract_params(cfg, mesh)
    state = jax.eval_shape(step.init, jax.ShapeDtypeStruct((), jnp.int32), params)
    return step.train_step, state, abstract_batch(cfg, stage)


def memory_of(compiled: Any) -> Memory:
    """Return the compiler's figures for the memory of a step on one device."""
    sizes = compiled.memory_analysis()
    fresh = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    code = sizes.generated_code_size_in_bytes
    return Memory(
        state=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=code,
        donated=sizes.alias_size_in_bytes,
        peak=sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + fresh + code,
    )


def model_flops(cfg: Config, stage: Stage, mesh: Mesh) -> float:
    """Return the FLOPs of a step on the whole batch, with blocks neither scanned nor computed twice."""
    plain = dataclasses.replace(cfg, blocks=Blocks(scan=False, remat="none", kernels="plain"))
    return flops.flops_of(*step_of(plain, dataclasses.replace(stage, microbatches=1), mesh))


def _does_not_fit(cfg: Config, stage: Stage, mesh: Mesh, error: Exception) -> Exception:
    """Return DoesNotFit with the excess memory and a remedy, or `error` itself if it is not about memory."""
    size = r"([\d.]+)([KMGT])"
    match = re.search(rf"[Uu]sed {size} of {size} hbm|\({size}\) exceeds available HBM \({size}\)", str(error))
    if not match:
        return error
    used, have = _bytes(*[part for part in match.groups() if part])
    rows = stage.batch_size / sharding.row_parts(mesh)
    state = _state_bytes(cfg, stage, mesh)
    fitting = int(rows * max(0.0, have - state) / (used - state)) if used > state else 0
    hint = f"about {fitting} would fit" if fitting else "the state alone is too much: raise config.mesh.fsdp"
    if cfg.blocks.remat != "full":
        hint += f', more with config.blocks.remat="full" (it is "{cfg.blocks.remat}")'
    return DoesNotFit(
        f"stage {stage.name}: {rows:g} pairs a chip need {used / GIB:.2f} GiB of the {have / GIB:.2f} that it has, "
        f"{(used - have) / GIB:.2f} too many; {hint}. --fit finds the greatest number"
    )


def _bytes(used: str, used_unit: str, have: str, have_unit: str) -> tuple[float, float]:
    scale = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
    return float(used) * scale[used_unit], float(have) * scale[have_unit]


def _state_bytes(cfg: Config, stage: Stage, mesh: Mesh) -> float:
    """Return the bytes of a stage's state on one chip."""
    _, state, _ = step_of(cfg, stage, mesh)
    place = sharding.layout(cfg, abstract_params(cfg, mesh), mesh)(state)
    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, state, place)
    return float(sum(jax.tree.leaves(sizes)))


def _traffic(program: hlo.Program, mesh: Mesh, chip: Chip) -> tuple[Traffic, ...]:
    """Return the collectives, merged by kind and mesh axes, the slowest first."""
    merged: dict[tuple[str, str], list[Traffic]] = {}
    for one in program.collectives:
        groups = hlo.groups(one.groups, mesh.size)
        axes, bandwidth = _axes(groups, mesh), _bandwidth(groups, mesh, chip)
        n = groups.shape[1]
        # In a ring a chip passes on all but its own part once, in both directions; an all-reduce is two such rounds.
        share = {"all-reduce": 2 * (n - 1) / n, "all-to-all": n / 4, "collective-permute": 1.0}.get(one.op, (n - 1) / n)
        seconds = one.times * one.bytes * share / bandwidth if n > 1 else 0.0
        item = Traffic(one.op, axes, n, one.times, one.bytes * one.times, one.shape, seconds)
        merged.setdefault((one.op, axes), []).append(item)
    totals = [
        dataclasses.replace(
            items[0],
            count=sum(i.count for i in items),
            bytes=sum(i.bytes for i in items),
            greatest=max(items, key=lambda i: i.bytes / i.count).greatest,
            seconds=sum(i.seconds for i in items),
        )
        for items in merged.values()
    ]
    return tuple(sorted(totals, key=lambda item: -item.seconds))


def _axes(groups: np.ndarray, mesh: Mesh) -> str:
    """Return the mesh axes that the groups span, joined by "+", or "?" if they span none exactly."""
    ids, members = np.arange(mesh.size).reshape(mesh.devices.shape), {frozenset(g) for g in groups.tolist()}
    wide = [i for i, size in enumerate(mesh.devices.shape) if size > 1]
    for count in range(len(wide) + 1):
        for chosen in itertools.combinations(wide, count):
            others = [i for i in range(ids.ndim) if i not in chosen]
            rows = ids.transpose(*others, *chosen).reshape(-1, math.prod(ids.shape[i] for i in chosen))
            if {frozenset(row) for row in rows.tolist()} == members:
                return "+".join(mesh.axis_names[i] for i in chosen)
    return "?"


def _bandwidth(groups: np.ndarray, mesh: Mesh, chip: Chip) -> float:
    """Return the bytes/s at which the members of a group exchange data.

    They use two links along each side that they span, or one if the side does not form a ring.
    """
    coords = np.array([device.coords for device in mesh.devices.flat])
    slice_sides = coords.max(axis=0) + 1
    members = coords[groups[0]]
    spanned = [d for d in range(coords.shape[1]) if len(set(members[:, d].tolist())) > 1]
    sides = {d: len(set(members[:, d].tolist())) for d in spanned}
    closed = {d: sides[d] == slice_sides[d] and slice_sides[d] % chip.ring == 0 for d in spanned}
    return chip.link_rate * max(1, sum(2 if closed[d] else 1 for d in spanned))
