"""The least time that a cell takes on this machine, before any has run."""

import jax

from bridge_jax.config import Config
from bridge_jax.plan import planner
from bridge_jax.step import flops, sharding


def least_secs(cfg: Config) -> float:
    """Return the seconds of the experiment's training products alone, at the rate of plain products on this machine.

    Towers whose states are read from the cache, evaluation, data and all that is no product come on top.
    """
    mesh, total = sharding.make_mesh(cfg.mesh), 0.0
    for stage in cfg.run_stages:
        total += stage.steps * flops.flops_of(*planner.step_of(cfg, stage, mesh))
    return total / flops.matmul_rate() / jax.device_count()
