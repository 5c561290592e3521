"""Count the bytes that an instruction of a compiled program reads from HBM and writes to it.

An array counts in whole tiles. A slice counts without the array that it is cut from, and an update in place without the
array that it changes. Both mostly hide in fusions, where a bitcast or another fusion may stand between.
"""

from bridge_jax.plan.hlo_text import Computation, Instruction, Module

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"}
_RUN_ELSEWHERE = {"while", "conditional", "call", "async-start", "async-update"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def moved(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Return the bytes that an instruction outside of all fusions moves to or from HBM in one run."""
    op = instruction.op
    if op in _FREE or op in _RUN_ELSEWHERE or op.endswith("-done") or instruction.target == "AllocateBuffer":
        return 0.0
    if op in ("copy-start", "slice-start"):  # two arrays and a flag: the smaller array has the size of the transfer
        ends = instruction.shapes[:2]
        size = min(shape.tiled_bytes for shape in ends)
        return float(size * sum(shape.in_hbm for shape in ends))
    read = 0
    for position, name in enumerate(instruction.operands):
        operand = computation.instructions[name]
        if operand.op != "tuple":
            read += _read(module, instruction, position, sum(s.tiled_bytes for s in operand.shapes if s.in_hbm))
    results = instruction.results
    sizes = [s.tiled_bytes for s in results] if op.endswith("-start") else _written(module, computation, instruction)
    written = sum(size for size, shape in zip(sizes, results, strict=True) if shape.in_hbm)
    return max(float(read + written), instruction.estimate("bytes_accessed"))


def _read(module: Module, instruction: Instruction, position: int, whole: int) -> int:
    """Return the bytes that an instruction reads of its operand at `position`, which has `whole` bytes."""
    if instruction.op == "fusion":
        called = module[instruction.called]
        return _read_inside(module, called, called.parameters[position], whole)
    if position == 0 and instruction.op in _SLICES:
        return min(whole, instruction.shapes[0].tiled_bytes)
    return 0 if position == 0 and instruction.op == "dynamic-update-slice" else whole


def _read_inside(module: Module, called: Computation, value: Instruction, whole: int) -> int:
    """Return the bytes that a fusion reads of a parameter, or of a value that is the parameter with another shape."""
    if value is called.root:
        return whole
    total = 0
    for user, position in called.users[value.name]:
        same = _is_bitcast(module, user)
        total += _read_inside(module, called, user, whole) if same else _read(module, user, position, whole)
    return min(whole, total)


def _is_bitcast(module: Module, instruction: Instruction) -> bool:
    if instruction.op == "fusion":
        return all(one.op in ("parameter", "bitcast") for one in module[instruction.called].instructions.values())
    return instruction.op == "bitcast"


def _written(module: Module, computation: Computation, instruction: Instruction) -> list[int]:
    """Return the bytes that an instruction writes of each of its results, wherever they lie."""
    inside = computation.instructions
    if instruction.op == "fusion":
        called = module[instruction.called]
        results = called.root.operands if called.root.op == "tuple" else (called.root.name,)
        return [n for name in results for n in _written(module, called, called.instructions[name])]
    if instruction.op == "dynamic-update-slice":
        return [inside[instruction.operands[1]].shapes[0].tiled_bytes]
    if instruction.op == "bitcast":
        return _written(module, computation, inside[instruction.operands[0]])
    return [shape.tiled_bytes for shape in instruction.shapes]
