"""The device mesh, and host rows -> one global array."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bridge_jax.config import ConfigError


def make_mesh() -> Mesh:
    """Return a mesh of all devices with one axis, `data`."""
    # Auto axes: with Explicit ones, which jax.make_mesh now defaults to, Linen's Dropout fails.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a global batch: its rows over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(rows: int, mesh: Mesh, key: str) -> None:
    """Raise ConfigError unless the global batch divides over the devices."""
    if rows % mesh.size:
        raise ConfigError(f"{key} is {rows}; it must be a multiple of the {mesh.size} devices")


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Make global arrays, rows over the data axis, of every host's own rows."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(over_data(mesh), rows), batch)
