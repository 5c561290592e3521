"""Count a program's FLOPs in its jaxpr, before any compiler has changed it; and time those of a plain product."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp


def flops_of(function: Any, *arguments: Any) -> float:
    """Return the FLOPs of all matrix products and convolutions in a jitted function's program, over the whole batch.

    The body of a loop counts once for each iteration, and a kernel's for each cell of its grid. Operations that a
    rematerialised program repeats count again.
    """
    return flops_in(function.trace(*arguments).jaxpr)


def flops_in(program: Any) -> float:
    """Return the same of a program that is traced already, a (closed) jaxpr."""
    total = 0.0
    for equation in getattr(program, "jaxpr", program).eqns:
        total += _times(equation) * sum(flops_in(inner) for inner in _inner(equation))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[out_features]
    return total


def kernels_in(program: Any) -> int:
    """Return the number of Pallas kernels in a program; a loop counts once."""
    return sum(
        1 if equation.primitive.name == "pallas_call" else sum(kernels_in(inner) for inner in _inner(equation))
        for equation in getattr(program, "jaxpr", program).eqns
    )


def _inner(equation: Any) -> Iterator[Any]:
    """Yield the programs inside an equation: the bodies of loops, kernels and jitted functions."""
    for value in equation.params.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield inner


def _times(equation: Any) -> int:
    """Return how often an equation runs the programs inside it, over all devices."""
    name, params = equation.primitive.name, equation.params
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return params["length"] if name == "scan" else 1


def matmul_rate(seconds: float = 0.5, side: int = 2048) -> float:
    """Return the float32 FLOP/s of square matrix products, one after another for at least `seconds`, on one device."""
    a, product = jnp.ones((side, side), jnp.float32), jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    count, started, spent = 0, time.perf_counter(), 0.0
    while spent < seconds:
        jax.block_until_ready(product(a, a))
        count, spent = count + 1, time.perf_counter() - started
    return count * 2 * side**3 / spent
