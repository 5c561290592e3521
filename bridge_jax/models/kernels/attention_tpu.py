"""A Pallas kernel for TPUs: attention of short sequences, all logits of a row in VMEM, forward and backward.

XLA writes the logits, the softmax and the dropped weights to HBM and reads them again. For 197 tokens this traffic
takes longer than the products. Here a cell of the grid loads the states of a few rows, computes [L,M] head by head in
VMEM, and stores what the heads attended to. The backward pass computes the weights again. Heads stay behind the tokens,
[B,L,D], so nothing is transposed. `attention.attend` calls it on every device's own rows and heads.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bridge_jax.models.kernels import dropout_bits
from bridge_jax.types import Array

LANES, SUBLANES = 128, 16  # of a tile; a scalar result is stored as one row of lanes
ROW_TOKENS = 512  # the rows of a cell hold so many tokens together, at most
VMEM_LIMIT = 64 * 2**20  # bytes that the compiler may use


@dataclasses.dataclass(frozen=True)
class Form:
    """Choose the kernel to compile.

    `cosine`: queries and keys are L2-normalised, logits have a position bias, and the mean weights are a result too.
    """

    heads: int  # of this device
    cosine: bool
    rate: float  # of dropout
    interpret: bool  # run as plain operations, on any device


class Operands(NamedTuple):
    """The arrays of a call."""

    numbers: Array  # int32 [5]: both halves of the dropout key, the device's first row and head, the heads of all
    scale: Array  # float32 [1], multiplies the products
    states: tuple[Array, ...]  # (q, k, v) [3,B,L,D], or q [1,B,L,D] and (k, v) [2,B,M,D]
    bias: Array | None  # float32 [L,M]
    mask: Array | None  # float32 [B,1,M]; 0.0: a key is not attended to

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """B, L, M, D."""
        _, B, L, D = self.states[0].shape
        return B, L, self.states[-1].shape[2], D


def forward(form: Form, given: Operands) -> list[jax.Array]:
    """Return what the heads attended to, [B,L,D], and with `cosine` the mean of their weights, float32 [B,L,M]."""
    B, L, M, D = given.sizes
    grid = _grid(given)
    out = [(jax.ShapeDtypeStruct((B, L, D), given.states[0].dtype), grid.rows_of((L, D)))]
    if form.cosine:
        out.append((jax.ShapeDtypeStruct((B, L, M), jnp.float32), grid.rows_of((L, M))))
    return _call(_forward, form, given, [], out, products=2)


def backward(form: Form, given: Operands, grads: Sequence[Array]) -> list[jax.Array]:
    """Return the gradients of the states, and with `cosine` those of bias [L,M] and scale [1].

    `grads` are those of what `forward` returns.
    """
    _, L, M, _ = given.sizes
    grid = _grid(given)
    out = [(jax.ShapeDtypeStruct(x.shape, x.dtype), grid.states_of(x.shape)) for x in given.states]
    if form.cosine:
        for shape in ((L, M), (1, LANES)):
            out.append((jax.ShapeDtypeStruct((grid.parts, *shape), jnp.float32), grid.part_of(shape)))
    more = [(x, grid.rows_of(x.shape[1:])) for x in grads]
    found = _call(_backward, form, given, more, out, products=5)
    if form.cosine:
        found[-2:] = found[-2].sum(axis=0), found[-1][:, 0, :1].sum(axis=0)
    return found


def vmem_bytes(L: int, M: int, D: int, itemsize: int) -> int:
    """Return about how much VMEM a row takes in the backward pass: its states twice, and ten arrays [L,M]."""
    L, M = (-(-size // SUBLANES) * SUBLANES for size in (L, M))
    return 2 * itemsize * D * (3 * L + 4 * M) + 10 * 4 * L * -(-M // LANES) * LANES


class _Grid(NamedTuple):
    """`parts`, which two cores may run beside each other, of `cells` one after the other, of `rows` of the batch."""

    parts: int
    cells: int
    rows: int

    def rows_of(self, shape: tuple[int, ...]) -> pl.BlockSpec:
        """Of an array [B, *shape], a cell has its rows."""
        return pl.BlockSpec((self.rows, *shape), lambda part, cell: (part * self.cells + cell, *[0] * len(shape)))

    def states_of(self, shape: tuple[int, ...]) -> pl.BlockSpec:
        """Of an array `shape`, [J,B,L,D], a cell has its rows."""
        return pl.BlockSpec((shape[0], self.rows, *shape[2:]), lambda part, cell: (0, part * self.cells + cell, 0, 0))

    def part_of(self, shape: tuple[int, ...]) -> pl.BlockSpec:
        """Of an array [parts, *shape], all cells of a part have that of their part."""
        return pl.BlockSpec((1, *shape), lambda part, cell: (part, *[0] * len(shape)))


def _grid(given: Operands) -> _Grid:
    B, L, M, _ = given.sizes
    rows = math.gcd(B, 2 ** int(math.log2(max(1, ROW_TOKENS // max(L, M)))))
    parts = math.gcd(B // rows, 2)
    return _Grid(parts, B // rows // parts, rows)


def _call(
    body: Callable[["_Cell", list[Any]], None], form: Form, given: Operands, more: list, out: list, products: int
) -> list[jax.Array]:
    """Run `body` on every cell, with refs of `more` and `out`: (array or shape, block) each."""
    B, L, M, D = given.sizes
    grid, smem = _grid(given), pl.BlockSpec(memory_space=pltpu.SMEM)
    inputs: list[tuple[Any, pl.BlockSpec]] = [(given.numbers, smem), (given.scale, smem)]
    inputs += [(x, grid.states_of(x.shape)) for x in given.states]
    inputs += [(given.bias, pl.BlockSpec((L, M), lambda part, cell: (0, 0)))] if given.bias is not None else []
    inputs += [(given.mask, grid.rows_of((1, M)))] if given.mask is not None else []
    inputs += more

    def cell(*refs: Any) -> None:
        left = list(refs)
        taken = [left.pop(0) for _ in range(2 + len(given.states))]
        bias = left.pop(0) if given.bias is not None else None
        mask = left.pop(0) if given.mask is not None else None
        first = (pl.program_id(0) * grid.cells + pl.program_id(1)) * grid.rows
        body(_Cell(form, Operands(taken[0], taken[1], tuple(taken[2:]), bias, mask), first, grid.rows), left)

    moved = [x for x, _ in (*inputs, *out)]
    return list(
        pl.pallas_call(
            cell,
            out_shape=[x for x, _ in out],
            grid=(grid.parts, grid.cells),
            in_specs=[block for _, block in inputs],
            out_specs=[block for _, block in out],
            cost_estimate=pl.CostEstimate(
                flops=2 * products * B * L * M * D,
                transcendentals=B * form.heads * L * M,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
            ),
            interpret=form.interpret,
            name=f"attention{body.__name__}",
        )(*[x for x, _ in inputs])
    )


class _Cell(NamedTuple):
    """A cell's operands, as refs, and where its rows stand among the device's."""

    form: Form
    ref: Operands
    first: Any  # the first row
    rows: int

    def each_row(self, run: Callable[[Any], None]) -> None:
        """Call `run` with the position of each row in the cell."""
        if self.rows == 1:
            run(0)
        else:
            lax.fori_loop(0, self.rows, lambda r, _: run(r), None)

    def lanes(self, head: int) -> slice:
        width = self.ref.states[0].shape[-1] // self.form.heads
        return slice(head * width, (head + 1) * width)

    def states(self, r: Any, head: int) -> tuple[Array, Array, Array]:
        """Return the head's queries [L,K], keys [M,K] and values [M,K]."""
        q, k, v = (ref[at, r, :, self.lanes(head)] for ref, at in _places(self.ref.states))
        return q, k, v

    def weights(self, r: Any, q: Array, k: Array) -> tuple[Array, Array]:
        """Return the products of queries and keys and their softmax weights, float32 [L,M]."""
        products = _dot(q, k, 1, 1)
        logits = products * self.ref.scale[0]
        if self.ref.bias is not None:
            logits = logits + self.ref.bias[...]
        if self.ref.mask is not None:
            logits = jnp.where(self.ref.mask[r] > 0, logits, -1e30)
        shifted = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        return products, shifted / shifted.sum(axis=-1, keepdims=True)

    def dropped(self, r: Any, head: int, x_LM: Array) -> Array:
        """Apply dropout, with the bits that `layers.hashed_bits` has at this row and head of [B,N,L,M]."""
        if not round(self.form.rate * 2**32):
            return x_LM
        key_first, key_second, row, first_head, heads = (self.ref.numbers[i] for i in range(5))
        place = (row + self.first + r) * heads + first_head + head
        return dropout_bits.dropped(x_LM, self.form.rate, (key_first, key_second), place)


def _forward(cell: _Cell, out: list[Any]) -> None:
    out_ref, *mean_ref = out
    cosine, heads = cell.form.cosine, cell.form.heads

    def row(r: Any) -> None:
        total = jnp.zeros(())
        for head in range(heads):
            q, k, v = cell.states(r, head)
            if cosine:
                q, k = _unit(q).scaled, _unit(k).scaled
            _, weights = cell.weights(r, q, k)
            total += weights
            kept = cell.dropped(r, head, weights).astype(v.dtype)
            out_ref[r, :, cell.lanes(head)] = _dot(kept, v, 1, 0).astype(out_ref.dtype)
        if cosine:
            mean_ref[0][r] = total / heads

    cell.each_row(row)


def _backward(cell: _Cell, refs: list[Any]) -> None:
    cosine, heads = cell.form.cosine, cell.form.heads
    out_grad, *refs = refs
    mean_grads, refs = refs[:cosine], refs[cosine:]
    state_grads, sums = refs[: len(cell.ref.states)], refs[len(cell.ref.states) :]

    @pl.when(pl.program_id(1) == 0)
    def _clear() -> None:
        for ref in sums:
            ref[...] = jnp.zeros_like(ref)

    def row(r: Any) -> None:
        for head in range(heads):
            q, k, v = cell.states(r, head)
            d_out = out_grad[r, :, cell.lanes(head)]
            units = [_unit(x) for x in (q, k)] if cosine else []
            if units:
                q, k = (unit.scaled for unit in units)
            products, weights = cell.weights(r, q, k)
            d_v = _dot(cell.dropped(r, head, weights).astype(v.dtype), d_out, 0, 0)
            d_weights = cell.dropped(r, head, _dot(d_out, v, 1, 1))
            for mean_grad in mean_grads:
                d_weights += mean_grad[r] / heads
            d_logits = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True))
            if cosine:
                sums[0][0] += d_logits
                d_scale = (d_logits * products).sum(axis=0, keepdims=True).sum(axis=1, keepdims=True)
                sums[1][0] += jnp.broadcast_to(d_scale, (1, LANES))
            d_products = (d_logits * cell.ref.scale[0]).astype(q.dtype)
            d_q, d_k = _dot(d_products, k, 1, 0), _dot(d_products, q, 0, 0)
            if units:
                d_q, d_k = (unit.grad(x) for unit, x in zip(units, (d_q, d_k), strict=True))
            for (ref, at), grad in zip(_places(state_grads), (d_q, d_k, d_v), strict=True):
                ref[at, r, :, cell.lanes(head)] = grad.astype(ref.dtype)

    cell.each_row(row)


class _Unit(NamedTuple):
    """Rows scaled to length one in float32, as `layers.l2_normalise` does."""

    exact: Array  # float32
    scaled: Array  # the same, in the states' own type
    inverse: Array
    squared: Array

    def grad(self, grad: Array) -> Array:
        """Return the gradient of the rows before they were scaled. Where they are zero, the length was not theirs."""
        along = jnp.where(self.squared > 1e-12, self.exact * (grad * self.exact).sum(-1, keepdims=True), 0.0)
        return (grad - along) * self.inverse


def _unit(x: Array) -> _Unit:
    exact = x.astype(jnp.float32)
    squared = (exact * exact).sum(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.maximum(squared, 1e-12))
    return _Unit(exact * inverse, (exact * inverse).astype(x.dtype), inverse, squared)


def _places(states: Sequence[Any]) -> list[tuple[Any, int]]:
    """Return where queries, keys and values are: a ref, and their position in its first axis."""
    return [(ref, at) for ref in states for at in range(ref.shape[0])]


def _dot(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)
