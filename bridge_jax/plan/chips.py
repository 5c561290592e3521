"""List the peaks of TPU chips, and make the slices that libtpu can compile for without a TPU.

Peaks are from Austin et al., "How to Scale Your Model" (https://jax-ml.github.io/scaling-book/tpus/), chapter 2, which
has them from Google's documentation of each chip. `hbm_bytes` is the memory that libtpu lets a program have, as stated
in its out-of-memory error.
"""

import dataclasses
import os
from typing import Any

from bridge_jax.config import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peaks of one TPU chip."""

    name: str
    flops: float  # FLOP/s of bfloat16 products; float32 products run as bfloat16 unless the program sets a precision
    hbm_bytes: float
    hbm_rate: float  # bytes/s
    link_rate: float  # bytes/s of one link between neighbours, one way
    ring: int  # a side of a slice forms a ring if its length is a multiple of this
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # options that libtpu needs for the chip


GIB = 2.0**30
CHIPS = {
    "v4": Chip(
        "v4", 275e12, 30.75 * GIB, 1.2e12, 4.5e10, 4, {"chip_config_name": "megacore"}
    ),  # else two devices a chip
    "v5e": Chip("v5e", 197e12, 15.75 * GIB, 8.1e11, 4.5e10, 16),
    "v5p": Chip("v5p", 459e12, 95.74 * GIB, 2.8e12, 9.0e10, 4),
    "v6e": Chip("v6e", 918e12, 31.25 * GIB, 1.6e12, 9.0e10, 16),
}


def slice_of(topology: str) -> tuple[Chip, list[Any]]:
    """Return the chip and the devices of a slice such as "v5e:16x16". Raises ConfigError if there is no such slice.

    Programs can be compiled for the devices, but not run on them.
    """
    kind, _, sides = topology.partition(":")
    if kind not in CHIPS or not sides:
        raise ConfigError(
            f"--topology={topology}: expected CHIP:SIDES such as v5e:16x16 or v5p:4x4x4; {nearest(kind, CHIPS)}"
        )
    _be_quiet()
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **CHIPS[kind].options)
    except RuntimeError as error:
        if "TPU support not installed" in str(error):
            raise ConfigError(
                f"--topology={topology}: the TPU compiler is not installed: pip install 'bridge_jax[tpu]'"
            ) from error
        raise ConfigError(f"--topology={topology}: there is no such slice ({_line(error)})") from error
    return CHIPS[kind], list(description.devices)


def _be_quiet() -> None:
    """Set libtpu's variables so that it looks for no TPU, asks no metadata server and logs neither."""
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
