"""TPU chips and slices: one table of their peaks, and the slices that libtpu can compile for without a TPU.

Peaks as in Austin et al., "How to Scale Your Model" (https://jax-ml.github.io/scaling-book/tpus/), chapter 2, from
Google's documentation of each chip. `hbm_bytes` is what libtpu lets a program have, as its out-of-memory error says.
"""

import dataclasses
import os
from typing import Any

from bridge_jax.config import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    name: str
    flops: float  # bfloat16 products, FLOP/s; float32 products run as bfloat16 unless a higher precision is asked for
    hbm_bytes: float
    hbm_rate: float  # bytes/s
    link_rate: float  # bytes/s of one link between neighbours, one way
    ring: int  # a slice's side that is a multiple of this is closed to a ring
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # that libtpu needs for the chip


GIB = 2.0**30
CHIPS = {
    "v4": Chip("v4", 275e12, 30.75 * GIB, 1.2e12, 4.5e10, 4, {"chip_config_name": "megacore"}),  # else two per chip
    "v5e": Chip("v5e", 197e12, 15.75 * GIB, 8.1e11, 4.5e10, 16),
    "v5p": Chip("v5p", 459e12, 95.74 * GIB, 2.8e12, 9.0e10, 4),
    "v6e": Chip("v6e", 918e12, 31.25 * GIB, 1.6e12, 9.0e10, 16),
}


def slice_of(topology: str) -> tuple[Chip, list[Any]]:
    """Return the chip and the devices of a slice such as "v5e:16x16". Raises ConfigError where there is none.

    The devices compute nothing: programs can be compiled for them.
    """
    kind, _, sides = topology.partition(":")
    if kind not in CHIPS or not sides:
        raise ConfigError(
            f"--topology={topology}: expected CHIP:SIDES such as v5e:16x16 or v5p:4x4x4; {nearest(kind, CHIPS)}"
        )
    _be_quiet()
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **CHIPS[kind].options)
    except RuntimeError as error:
        if "TPU support not installed" in str(error):
            raise ConfigError(
                f"--topology={topology}: the compiler of TPUs is not here: pip install '.[tpu]'"
            ) from error
        raise ConfigError(f"--topology={topology}: there is no such slice ({_line(error)})") from error
    return CHIPS[kind], list(found.devices)


def _be_quiet() -> None:
    """Tell libtpu that there is no TPU to ask for, no server to ask about it and nothing to say about that."""
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
        ("TPU_MIN_LOG_LEVEL", "3"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(name, value)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
