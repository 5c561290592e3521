"""Read a compiled program's HLO text: its products, memory traffic, collectives and transfers to the host.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count. Here every computation counts as
often as it runs. Shapes are those of one device.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from bridge_jax.plan import hbm, hlo_text
from bridge_jax.plan.hlo_text import Computation, Instruction

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Collective:
    op: str
    bytes: int  # size of the whole array that a device ends with, or for a reduce-scatter starts with
    shape: str  # shape of the greatest array in it: "bf16[128,256]"
    groups: str  # HLO's `replica_groups`
    times: int  # number of runs in a step
    source: str  # name of the operation in the JAX program that caused it


@dataclasses.dataclass(frozen=True)
class Program:
    """The totals of one run of a program on one device."""

    flops: float  # FLOPs of matrix products and convolutions, and of kernels by their own estimate
    hbm_bytes: float  # bytes read from HBM and written to it
    collectives: tuple[Collective, ...]
    host_transfers: tuple[str, ...]  # instructions that exchange data with the host


def read(text: str) -> Program:
    """Return the totals of the program in an HLO text."""
    module, entry = hlo_text.parse(text)
    flops, hbm_bytes, collectives, host = 0.0, 0.0, {}, []
    for computation, instruction, times, fused in hlo_text.runs(module, entry):
        flops += times * _flops(computation, instruction)
        if not fused:
            hbm_bytes += times * hbm.moved(module, computation, instruction)
        op = instruction.op.removesuffix("-start")
        if op in COLLECTIVES:
            # A collective that overlaps other work appears once in each part: all have the same channel.
            channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
            collectives[channel] = _collective(computation, instruction, op, times)
        if _meets_host(instruction):
            host.append(instruction.name)
    return Program(flops, hbm_bytes, tuple(collectives.values()), tuple(host))


def _flops(computation: Computation, instruction: Instruction) -> float:
    if instruction.op == "custom-call":
        return instruction.estimate("flops")
    if instruction.op not in ("dot", "convolution"):
        return 0.0
    left, right = (computation.instructions[name].shapes[0].sizes for name in instruction.operands[:2])
    out = instruction.shapes[0].sizes
    if instruction.op == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2.0 * math.prod(out) * math.prod(left[int(i)] for i in contracted.split(",") if i)
    window = instruction.attribute(r"window=\{([^}]*)\}")
    in_labels, kernel_labels, out_labels = re.split(r"_|->", instruction.attribute(r"dim_labels=(\S+?)(?:,|$)"))
    total = 2.0 * out[out_labels.index("b")] * out[out_labels.index("f")] * right[kernel_labels.index("i")]
    for d, label in enumerate(sorted(set(in_labels) - {"b", "f"})):
        sizes = (left[in_labels.index(label)], right[kernel_labels.index(label)], out[out_labels.index(label)])
        total *= _meetings(*sizes, *_window(window, d))
    return total


def _window(window: str, d: int) -> tuple[int, int, int, int]:
    """Return the stride, the padding before, and the dilations of input and kernel in a spatial dimension."""
    parts = dict(part.split("=") for part in window.split())
    along = {key: value.split("x")[d] for key, value in parts.items()}
    pad = int(along.get("pad", "0_0").split("_")[0])
    return int(along.get("stride", 1)), pad, int(along.get("lhs_dilate", 1)), int(along.get("rhs_dilate", 1))


@functools.cache
def _meetings(size: int, kernel: int, out: int, stride: int, pad: int, dilation: int, kernel_dilation: int) -> int:
    """Return the number of pairs of a kernel and an output position that read an input, not padding or a dilation gap.

    On a TPU the batch of a batched product is a spatial dimension in which nearly all pairs read none.
    """
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * kernel_dilation - pad
    return int(((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)).sum())


def _collective(computation: Computation, instruction: Instruction, op: str, times: int) -> Collective:
    shapes = instruction.results
    if op == "reduce-scatter":
        shapes = tuple(shape for name in instruction.operands for shape in computation.instructions[name].shapes)
    greatest = max(shapes, key=lambda shape: shape.bytes)
    groups = instruction.attribute(r"(?:replica_groups|source_target_pairs)=(mesh\[.*?\{.*?\}|.*?)(?:, [a-z_]+=|$)")
    return Collective(
        op=op,
        bytes=sum(shape.bytes for shape in shapes),
        shape=f"{greatest.dtype}[{','.join(map(str, greatest.sizes))}]",
        groups=groups,
        times=times,
        source=instruction.attribute(r'op_name="([^"]*)"'),
    )


def _meets_host(instruction: Instruction) -> bool:
    return (
        instruction.op in ("infeed", "outfeed")
        or "is_host_transfer=true" in instruction.attributes
        or "MoveToHost" in instruction.attributes
        or "MoveToDevice" in instruction.attributes
        or any(re.search(r"S\(5\)", shape.layout) for shape in instruction.shapes)
    )


def groups(text: str, devices: int) -> np.ndarray:
    """Return `replica_groups` in any of HLO's three spellings as [groups, members] of device positions.

    >>> groups("{{0,2},{1,3}}", 4).tolist() == groups("[2,2]<=[2,2]T(1,0)", 4).tolist()
    True
    >>> groups("mesh['a'=2,'b'=2] {'b'}", 4).tolist()
    [[0, 1], [2, 3]]
    >>> groups("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", 4).tolist()
    [[0, 2], [1, 3]]
    """
    if text.startswith("mesh["):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", text.partition("]")[0])}
        named = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", text.partition("{")[2])
        placed = re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", text)
        dims, chosen = [], []
        for name, size in sizes.items():
            part = next((item for item in named if item[0] == name), None)
            before, own = (int(part[1]), int(part[2])) if part and part[1] else (1, size)
            chosen += [len(dims) + 1] if part else []
            dims += [before, own, size // (before * own)]
        others = [d for d in range(len(dims)) if d not in chosen]
        ids = _iota(placed[1], placed[2]) if placed else np.arange(math.prod(dims))
        ids = ids.reshape(dims).transpose(*others, *chosen)
        return ids.reshape(-1, math.prod(dims[d] for d in chosen))
    if iota := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))
    rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", text)]
    return np.array(rows) if rows else np.arange(devices)[None]


def _iota(sides: str, order: str | None) -> np.ndarray:
    """Return 0, 1, 2, ... as an array with sides such as "4,4", its dimensions transposed to an order such as "1,0"."""
    shape = [int(n) for n in sides.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids
