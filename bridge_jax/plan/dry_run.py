"""--dry_run: what a config would train, on what, and what a step costs, without training."""

from clu import parameter_overview
from rich.console import Console

from bridge_jax import paths
from bridge_jax.config import Config
from bridge_jax.plan import flops, planner
from bridge_jax.step import optim, sharding
from bridge_jax.step.params import abstract_params

_console = Console(soft_wrap=True, highlight=False)


def report(cfg: Config) -> None:
    """Print the parameter table, and per stage the batch, the FLOPs and the peak memory of the compiled step."""
    mesh = sharding.make_mesh(cfg.mesh)
    params = abstract_params(cfg, mesh)
    known = paths.every(params)
    trains = {name: set(optim.trainable_paths(cfg, name, known)) for name in cfg.stage_order}
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    _console.print(table, markup=False)
    for name in cfg.stage_order:
        _console.print(f"\nstage {name}: trains {len(trains[name])} of {len(known)} arrays", markup=False)
        _stage(cfg, name, mesh)


def _stage(cfg: Config, name: str, mesh) -> None:
    step, state, batch = planner.step_of(cfg, name, mesh)
    for field, leaf in batch.arrays().items():
        _console.print(f"  {field}: {leaf.dtype}{list(leaf.shape)}", markup=False)
    asked, peak = flops.flops_of(step, state, batch), planner.memory_of(step.lower(state, batch).compile()).peak
    _console.print(f"  {asked / 1e9:.1f} GFLOP a step, peak memory {peak / 2**30:.2f} GiB")
