"""The device mesh, the placement of every array on it, and host rows -> one global array.

The mesh has three axes (config.mesh). `data`: each row of devices holds a copy of the parameters and a part of the
batch. `fsdp`: the batch is spread over it too, and so are each copy's parameters and optimizer state, which are
gathered where they are used. `tensor`: both sides of a matrix product are spread over it. jax.jit adds the transfers.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bridge_jax import paths, rules
from bridge_jax.config import Config, ConfigError
from bridge_jax.config import Mesh as MeshConfig
from bridge_jax.types import Array, Params

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that the rows of a batch are spread over


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh over `devices`, by default all of all hosts. Raises ConfigError if the sizes do not fit them."""
    devices = jax.devices() if devices is None else devices
    sizes = [cfg.data, cfg.fsdp, cfg.tensor]
    shown = f"config.mesh is data {cfg.data}, fsdp {cfg.fsdp}, tensor {cfg.tensor}"
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ConfigError(f"{shown}: expected positive sizes, at most one of them -1 (all remaining devices)")
    named = math.prod(size for size in sizes if size > 0)
    sizes = [len(devices) // named if size == -1 else size for size in sizes]
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"{shown}: the sizes do not fit {len(devices)} devices; make their product {len(devices)}, "
            "or set one of them to -1"
        )
    # Auto axes: with Explicit ones, which jax.make_mesh now defaults to, Linen's Dropout fails.
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of a global batch: its rows over the `data` and `fsdp` axes."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Return what the compiler of the mesh's devices has to know beside the program.

    Over `fsdp` alone the TPU's compiler passes the parts of a parameter round a ring, and adds a part's product to the
    sum in HBM at every turn. A step of ViT-H on v5e:4x4 then moves 4.7 times the bytes, and its bound is 30 % of the
    peak in place of 79 (docs/plan.md). So it gathers parameters whole, whatever their size.
    """
    if mesh.devices.flat[0].platform != "tpu":
        return None
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": str(2**30)}


def known_to_kernels(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Return the context in which a program is traced whose kernels run on the devices of `mesh`, each on its part."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def spread_rows(rows: Any, mesh: Mesh) -> Any:
    """Make the compiler place the rows of these arrays like the batch's; it decides about the other dimensions.

    Otherwise it may gather the rows and spread the width instead, to leave parameters over `fsdp` in place: ViT-H on
    v5e:16x16 then sent 165 GB of activations a step.
    """

    def pin(x: Any) -> Any:
        spec = PartitionSpec(ROWS, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(pin, rows)


def layout(cfg: Config, params: Params, mesh: Mesh | AbstractMesh) -> Callable[[Any], Any]:
    """Return the function that places a tree on the mesh: tree of shapes -> tree of shardings.

    A leaf whose path ends with a parameter's path and that has its shape is placed like that parameter, by
    config.sharding (so Adam's moments are). Every other leaf is whole on every device. `params` are the abstract
    parameters. Raises ConfigError if a rule names an unknown axis, names an axis twice, or names an axis for a
    dimension that it does not divide.
    """
    leaves = {paths.path_of(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    spread = {
        path: NamedSharding(mesh, _spec(path, leaves[path].shape, axes, mesh))
        for path, axes in rules.match(cfg.sharding, leaves, "config.sharding").items()
    }

    def place(keys: tuple, leaf: Any) -> NamedSharding:
        path = paths.path_of(keys)
        while path and path not in leaves:
            path = path.partition("/")[2]
        return spread[path] if path and leaves[path].shape == leaf.shape else replicated(mesh)

    return lambda tree: jax.tree_util.tree_map_with_path(place, tree)


def _spec(path: str, shape: tuple[int, ...], axes: Any, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    where = f"config.sharding of {path!r}"
    if not isinstance(axes, (tuple, list)) or any(axis not in ("", *AXES) for axis in axes):
        raise ConfigError(f"{where}: expected a tuple of mesh axes ({', '.join(AXES)}, or '' for none), got {axes!r}")
    named = [axis for axis in axes if axis]
    if len(named) != len(set(named)):
        raise ConfigError(f"{where}: {axes!r} uses an axis twice; name it for one dimension only")
    if len(axes) > len(shape):
        raise ConfigError(f"{where}: {axes!r} names {len(axes)} dimensions, the parameter has the shape {shape}")
    for size, axis in zip(shape, axes, strict=False):
        if axis and size % mesh.shape[axis]:
            raise ConfigError(
                f"{where}: {mesh.shape[axis]} devices of {axis!r} do not divide {size}, of the shape {shape}; "
                f"set config.mesh.{axis} to a divisor, or name '' for this dimension in a rule before this one"
            )
    return PartitionSpec(*(axis or None for axis in axes))


def row_parts(mesh: Mesh | AbstractMesh) -> int:
    """Return the number of groups of devices that the rows of a batch are spread over."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_batch(rows: int, mesh: Mesh | AbstractMesh, key: str) -> None:
    """Raise ConfigError unless the global batch divides over the devices that rows are spread over."""
    parts = row_parts(mesh)
    if rows % parts:
        sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in ROWS)
        raise ConfigError(f"{key} is {rows}; it must be a multiple of {parts} (mesh: {sizes})")


@functools.cache
def host_rows(batch_size: int, mesh: Mesh) -> tuple[int, ...]:
    """Return the positions in the global batch of the rows on this host's devices, ascending.

    Hosts share rows if the `tensor` axis spans hosts. A host's rows need not be neighbours: the devices of a TPU slice
    are arranged by their links, not by their hosts.
    """
    slices = over_rows(mesh).addressable_devices_indices_map((batch_size,)).values()
    positions = np.concatenate([np.arange(batch_size)[index] for index in slices if index is not None])
    return tuple(np.unique(positions).tolist())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Build global arrays, rows over `data` and `fsdp`, from each host's own rows (`host_rows`)."""
    parts = row_parts(mesh)
    own_parts = len(host_rows(parts, mesh))

    def put(rows: np.ndarray) -> jax.Array:
        batch_size = len(rows) * parts // own_parts
        own = host_rows(batch_size, mesh)

        def part(index: Any) -> np.ndarray:
            first, stop, _ = index[0].indices(batch_size)
            start = own.index(first)  # a device's rows are neighbours in the batch, and so in this host's rows
            return rows[start : start + stop - first]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), over_rows(mesh), part)

    return jax.tree.map(put, batch)


def gather_hosts(rows: np.ndarray, flag: int, after: Array, mesh: Mesh) -> tuple[Any, Any]:
    """Return all hosts' rows and the greatest of their flags, on every host, once `after` is computed.

    `rows` are this host's own. The call does not wait; reading the results with jax.device_get does.
    """
    if jax.process_count() == 1:
        return rows, np.int32(flag)
    every = NamedSharding(mesh, PartitionSpec(AXES))
    flags = jax.make_array_from_callback((mesh.size,), every, lambda index: np.full(1, flag, np.int32))
    return _gathering(mesh)(put_batch(rows, mesh), flags, after)


@functools.cache
def _gathering(mesh: Mesh) -> Any:
    def gather(rows: Array, flags: Array, after: Array) -> tuple[jax.Array, jax.Array]:
        del after  # two collectives at the same time would mix their data
        return rows, flags.max()

    return jax.jit(gather, out_shardings=replicated(mesh), keep_unused=True)


def put_whole(batch: Any, mesh: Mesh) -> Any:
    """Build global arrays, rows over `data` and `fsdp`, from rows that every host holds in full."""

    def put(rows: Any) -> jax.Array:
        if isinstance(rows, jax.Array):
            return jax.device_put(rows, over_rows(mesh))
        return jax.make_array_from_callback(rows.shape, over_rows(mesh), lambda index: rows[index])

    return jax.tree.map(put, batch)


def put_everywhere(arrays: Any, mesh: Mesh) -> Any:
    """Build global arrays that are whole on every device, from arrays that every host holds in full."""

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])

    return jax.tree.map(put, arrays)
