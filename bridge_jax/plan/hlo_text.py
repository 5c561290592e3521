"""Parse the text of a compiled HLO program: its computations, their instructions, and how often each runs."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping

BYTES = {"pred": 1, "token": 0, "bf16": 2, "opaque": 0}  # the other names contain their bits: f32, s8, f8e4m3fn
_FAST_MEMORY = re.compile(r"S\((?!0|5)\d+\)")  # memory space of a layout that is neither HBM (0) nor the host (5)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Shape:
    dtype: str
    sizes: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        return self._bytes(self.sizes)

    @property
    def tiled_bytes(self) -> int:
        """Bytes of the whole tiles in which a TPU stores the array.

        >>> Shape("bf16", (30, 197), "1,0:T(8,128)(2,1)").tiled_bytes == 2 * 32 * 256
        True
        """
        order = [int(n) for n in self.layout.partition(":")[0].split(",") if n]  # the fastest dimension first
        tile = re.search(r"T\(([\d,]+)\)", self.layout)
        sizes = list(self.sizes)
        for dimension, side in zip(order, reversed(tile[1].split(",") if tile else []), strict=False):
            sizes[dimension] = math.ceil(sizes[dimension] / int(side)) * int(side)
        return self._bytes(sizes)

    @property
    def in_hbm(self) -> bool:
        return not _FAST_MEMORY.search(self.layout)

    def _bytes(self, sizes: tuple[int, ...] | list[int]) -> int:
        width = BYTES[self.dtype] if self.dtype in BYTES else int(re.findall(r"\d+", self.dtype)[0]) / 8
        return math.ceil(width * math.prod(sizes))


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    shapes: tuple[Shape, ...]  # of the results
    operands: tuple[str, ...]
    attributes: str  # of a constant or a parameter: what stands in its parentheses, too

    def attribute(self, pattern: str) -> str:
        """Return the text that the group of `pattern` matches in the attributes, or an empty string."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""

    @property
    def called(self) -> str:
        """Name of the computation that a fusion or an asynchronous call runs, or an empty string."""
        return self.attribute(r"calls=%([\w.-]+)")

    @property
    def target(self) -> str:
        """Name of the function that a custom call runs, or an empty string."""
        return self.attribute(r'custom_call_target="([^"]*)"')

    @property
    def results(self) -> tuple[Shape, ...]:
        """The shapes that it ends with. Those of a start also have its operands before them, and flags after them."""
        if self.op == "all-gather-start":
            return self.shapes[len(self.shapes) // 2 :]
        return self.shapes[1:2] if self.op == "collective-permute-start" else self.shapes

    def estimate(self, name: str) -> float:
        """Return what a kernel's author says that it costs: its `flops` or `bytes_accessed`; 0 without an estimate."""
        return float(self.attribute(rf'"cost_estimate":\{{[^}}]*"{name}":"(\d+)"') or 0)


@dataclasses.dataclass(frozen=True)
class Computation:
    instructions: Mapping[str, Instruction]  # by name, in order
    root: Instruction  # its results are those of the computation

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number, which is the position of the operand of a call."""
        found = (one for one in self.instructions.values() if one.op == "parameter")
        return {int(one.attribute(r"^(\d+)\)")): one for one in found}

    @functools.cached_property
    def users(self) -> dict[str, list[tuple[Instruction, int]]]:
        """Every instruction that reads a value, by the value's name, with its position among the operands."""
        found = collections.defaultdict(list)
        for instruction in self.instructions.values():
            for position, name in enumerate(instruction.operands):
                found[name].append((instruction, position))
        return found


Module = Mapping[str, Computation]  # by name


def parse(text: str) -> tuple[Module, str]:
    """Return the computations of a program, and the name of the one that it starts with."""
    computations, entry, name, inside, root = {}, "", "", {}, None
    for line in text.splitlines():
        if line.startswith("  ") and name and " = " in line:
            instruction = _instruction(line)
            inside[instruction.name] = instruction
            root = instruction if line.lstrip().startswith("ROOT ") else root
        elif line.startswith("}") and root is not None:
            computations[name] = Computation(inside, root)
            name, root = "", None
        elif line.endswith("{") and not line.startswith((" ", "HloModule")):
            name, inside = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%"), {}
            entry = name if line.startswith("ENTRY") else entry
    return computations, entry


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    cut = _balanced(rest) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:cut], rest[cut:].strip()
    op, _, rest = rest.partition("(")
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in sizes.split(",") if n), layout or "")
        for dtype, sizes, layout in _SHAPE.findall(result)
    )
    if op in ("constant", "parameter"):
        return Instruction(name.lstrip("%"), op, shapes, (), rest)
    cut = _balanced("(" + rest) - 2
    return Instruction(name.lstrip("%"), op, shapes, tuple(re.findall(r"%([\w.-]+)", rest[:cut])), rest[cut + 1 :])


def _balanced(text: str) -> int:
    """Return the position after the parenthesis that closes the one at the start of `text`."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", text):
        depth += 1 if parenthesis[0] == "(" else -1
        if not depth:
            return parenthesis.end()
    return len(text)


def runs(
    module: Module, name: str, times: int = 1, fused: bool = False
) -> Iterator[tuple[Computation, Instruction, int, bool]]:
    """Yield every instruction that a computation runs, with its own computation and the number of its runs.

    The last value is whether it is inside a fusion, where operands and results stay on the chip.
    """
    computation = module[name]
    for instruction in computation.instructions.values():
        yield computation, instruction, times, fused
        if instruction.op == "while":
            yield from runs(
                module, instruction.attribute(r"body=%([\w.-]+)"), times * _trips(module, instruction), fused
            )
        elif instruction.op == "conditional":
            for branch in re.findall(r"%([\w.-]+)", instruction.attribute(r"branch_computations=\{([^}]*)")):
                yield from runs(module, branch, times, fused)
        elif instruction.called:
            yield from runs(module, instruction.called, times, fused or instruction.op == "fusion")
        elif instruction.op == "call":
            yield from runs(module, instruction.attribute(r"to_apply=%([\w.-]+)"), times, fused)


def _trips(module: Module, loop: Instruction) -> int:
    """Return the trip count of a loop: XLA's own, or from the constants of its counter, which starts at 0.

    A product whose parts pass round a ring of devices advances by two parts a turn.
    """
    if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition, body = module[loop.attribute(r"condition=%([\w.-]+)")], module[loop.attribute(r"body=%([\w.-]+)")]
    limits = _constants(condition, condition.instructions)
    counters = [
        one.attribute(r"index=(\d+)") for one in condition.instructions.values() if one.op == "get-tuple-element"
    ]
    if len(limits) != 1 or len(counters) != 1:
        return 1
    advanced = body.instructions[body.root.operands[int(counters[0])]]
    steps = _constants(body, advanced.operands) if advanced.op == "add" else []
    return math.ceil(limits[0] / steps[0]) if steps else limits[0]


def _constants(computation: Computation, names: Iterable[str]) -> list[int]:
    """Return the whole numbers among these values."""
    found = (computation.instructions[name] for name in names)
    return [int(text) for one in found if one.op == "constant" and (text := one.attribute(r"^(\d+)\)"))]
