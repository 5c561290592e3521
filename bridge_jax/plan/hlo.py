"""Read a compiled program's HLO text: its products, memory traffic, collectives and transfers to the host.

XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count. Here every computation counts as
often as it runs. Shapes are those of one device.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

BYTES = {"pred": 1, "token": 0, "bf16": 2, "opaque": 0}  # the other names contain their bits: f32, s8, f8e4m3fn
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all", "reduce-scatter")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"}
_RUN_ELSEWHERE = {"while", "conditional", "call"}
_FAST_MEMORY = re.compile(r"S\((?!0|5)\d+\)")  # memory space of a layout that is neither HBM (0) nor the host (5)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Shape:
    dtype: str
    sizes: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        width = BYTES.get(self.dtype) if self.dtype in BYTES else int(re.findall(r"\d+", self.dtype)[0]) / 8
        return math.ceil((width or 0) * math.prod(self.sizes))

    @property
    def hbm_bytes(self) -> int:
        return 0 if _FAST_MEMORY.search(self.layout) else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    shapes: tuple[Shape, ...]  # shapes of the results
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str:
        """Return the text that the group of `pattern` matches in the attributes, or an empty string."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


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

    flops: float  # FLOPs of matrix products and convolutions
    hbm_bytes: float  # bytes read from HBM and written to it
    collectives: tuple[Collective, ...]
    host_transfers: tuple[str, ...]  # instructions that exchange data with the host


def read(text: str) -> Program:
    """Return the totals of the program in an HLO text."""
    computations, entry = _parse(text)
    flops, hbm_bytes, collectives, host = 0.0, 0.0, {}, []
    for computation, instruction, times, fused in _runs(computations, entry, 1, False):
        flops += times * _flops(computation, instruction)
        if not fused:
            hbm_bytes += times * _hbm_bytes(computations, computation, instruction)
        op = instruction.op.removesuffix("-start")
        if op in COLLECTIVES:
            # A collective that overlaps other work appears once in each part: all have the same channel.
            channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
            collectives[channel] = _collective(computation, instruction, op, times)
        if _meets_host(instruction):
            host.append(instruction.name)
    return Program(flops, hbm_bytes, tuple(collectives.values()), tuple(host))


Computation = dict[str, Instruction]  # name -> instruction, in order; the last is the root


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations, entry, inside = {}, "", None
    for line in text.splitlines():
        if line.startswith("  ") and inside is not None and " = " in line:
            instruction = _instruction(line)
            inside[instruction.name] = instruction
        elif line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            entry = name if line.startswith("ENTRY") else entry
            inside = computations[name] = {}
    return computations, entry


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    cut = _balanced(rest) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:cut], rest[cut:].strip()
    op, _, rest = rest.partition("(")
    cut = _balanced("(" + rest) - 1
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in sizes.split(",") if n), layout or "")
        for dtype, sizes, layout in _SHAPE.findall(result)
    )
    operands = () if op in ("constant", "parameter") else tuple(re.findall(r"%([\w.-]+)", rest[: cut - 1]))
    attributes = rest[cut - 1 :] if op != "constant" else rest
    return Instruction(name.lstrip("%"), op, shapes, operands, attributes)


def _balanced(text: str) -> int:
    """Return the position after the parenthesis that closes the one at the start of `text`."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", text):
        depth += 1 if parenthesis[0] == "(" else -1
        if not depth:
            return parenthesis.end()
    return len(text)


def _runs(
    computations: dict[str, Computation], name: str, times: int, fused: bool
) -> Iterator[tuple[Computation, Instruction, int, bool]]:
    """Yield every instruction with its computation, the number of its runs, and whether it is inside a fusion."""
    computation = computations[name]
    for instruction in computation.values():
        yield computation, instruction, times, fused
        if instruction.op == "while":
            body, condition = instruction.attribute(r"body=%([\w.-]+)"), instruction.attribute(r"condition=%([\w.-]+)")
            yield from _runs(computations, body, times * _trips(instruction, computations[condition]), fused)
        elif instruction.op == "conditional":
            for branch in re.findall(r"%([\w.-]+)", instruction.attribute(r"branch_computations=\{([^}]*)")):
                yield from _runs(computations, branch, times, fused)
        elif called := instruction.attribute(r"calls=%([\w.-]+)"):
            yield from _runs(computations, called, times, fused or instruction.op == "fusion")
        elif instruction.op == "call":
            yield from _runs(computations, instruction.attribute(r"to_apply=%([\w.-]+)"), times, fused)


def _trips(loop: Instruction, condition: Computation) -> int:
    """Return the trip count of a loop: XLA's own, or the constant that its counter is compared with."""
    if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    limits = [c.attribute(r"^(\d+)\)") for c in condition.values() if c.op == "constant"]
    return int(limits[0]) if len(limits) == 1 and limits[0] else 1


def _flops(computation: Computation, instruction: Instruction) -> float:
    if instruction.op not in ("dot", "convolution"):
        return 0.0
    left, right = (computation[name].shapes[0].sizes for name in instruction.operands[:2])
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


def _hbm_bytes(computations: dict[str, Computation], computation: Computation, instruction: Instruction) -> float:
    """Return the bytes that an instruction reads from HBM and writes to it. A slice counts without its whole array."""
    op = instruction.op
    if op in _FREE or op in _RUN_ELSEWHERE or op.endswith("-done"):
        return 0.0
    operands = [computation[name] for name in instruction.operands if name in computation]
    if op in ("copy-start", "slice-start"):  # two arrays and a flag: the smaller array has the size of the transfer
        moved = min(shape.bytes for shape in instruction.shapes[:2])
        return float(moved * sum(shape.hbm_bytes > 0 for shape in instruction.shapes[:2]))
    results = instruction.shapes[-1:] if op.endswith("-start") else instruction.shapes
    written = sum(shape.hbm_bytes for shape in results)
    if op in ("dynamic-slice", "slice", "gather"):
        return 2.0 * written
    if op == "dynamic-update-slice":
        return 2.0 * operands[1].shapes[0].hbm_bytes
    called = computations.get(instruction.attribute(r"calls=%([\w.-]+)"), {})
    inner = [i for i in called.values() if i.op == "parameter"]
    inner = {int(i.attribute(r"^(\d+)\)") or 0): i for i in inner}
    read = 0
    for position, operand in enumerate(operands):
        whole = sum(shape.hbm_bytes for shape in operand.shapes) if operand.op != "tuple" else 0
        slices = _slices(called, inner[position].name) if position in inner else None
        read += min(whole, slices) if slices is not None else whole
    root = list(called.values())[-1] if called else None
    if root is not None and root.op == "dynamic-update-slice" and written:
        written = called[root.operands[1]].shapes[0].bytes
    return float(read + written)


def _slices(called: Computation, parameter: str) -> int | None:
    """Return the bytes that a fusion reads of a parameter, or None if it reads more than slices of it."""
    total = 0
    for instruction in called.values():
        if parameter not in instruction.operands:
            continue
        if instruction.op == "dynamic-slice":
            total += instruction.shapes[0].bytes
        elif instruction.op != "dynamic-update-slice" or instruction.operands[0] != parameter:
            return None
    return total


def _collective(computation: Computation, instruction: Instruction, op: str, times: int) -> Collective:
    shapes = instruction.shapes
    if op == "reduce-scatter":
        shapes = tuple(shape for name in instruction.operands for shape in computation[name].shapes)
    elif instruction.op == "all-gather-start":
        shapes = shapes[len(shapes) // 2 :]
    elif instruction.op == "collective-permute-start":
        shapes = shapes[1:2]
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
