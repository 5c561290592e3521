"""--dry_run: what a config would train, on what, and what a step costs, without training."""

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from rich.console import Console

from bridge_jax import optim, rules, sharding
from bridge_jax import step as steps
from bridge_jax.config import Config
from bridge_jax.models.bridge import tower_class
from bridge_jax.types import Batch

_console = Console(soft_wrap=True, highlight=False)


def report(cfg: Config) -> None:
    """Print the parameter table, and per stage the batch, the FLOPs and the peak memory of the compiled step."""
    mesh = sharding.make_mesh(cfg.mesh)
    params = steps.abstract_params(cfg, mesh)
    paths = rules.paths(params)
    trains = {name: set(optim.trainable_paths(cfg, name, paths)) for name in cfg.stage_order}
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    _console.print(table, markup=False)
    for name in cfg.stage_order:
        _console.print(f"\nstage {name}: trains {len(trains[name])} of {len(paths)} arrays", markup=False)
        _stage(cfg, name, mesh, params)


def _stage(cfg: Config, name: str, mesh, params) -> None:
    plan = steps.build(cfg, name, 0, mesh)
    state = jax.eval_shape(plan.init, jax.ShapeDtypeStruct((), jnp.int32), params)
    batch = abstract_batch(cfg, name)
    for field, leaf in vars(batch).items():
        if leaf is not None:
            _console.print(f"  {field}: {leaf.dtype}{list(leaf.shape)}", markup=False)
    compiled = plan.train_step.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    peak -= memory.alias_size_in_bytes
    _console.print(f"  {compiled.cost_analysis()['flops'] / 1e9:.1f} GFLOP a step, peak memory {peak / 2**30:.2f} GiB")


def abstract_batch(cfg: Config, stage_name: str) -> Batch:
    """Return the shapes of a stage's global batch."""
    stage = cfg.stages[stage_name]
    B, T, side = stage.batch_size, cfg.text.length, cfg.vision.image_px
    patches = (side // cfg.vision.patch_px) ** 2

    def leaf(*shape: int, dtype: type = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((B, *shape), dtype)

    fields = {"image_ids": leaf(), "text_mask": leaf(T, dtype=np.bool_)}
    if stage.cached_crops:
        prefix = tower_class("vision", cfg.vision.tower).prefix
        fields["lower_image"] = leaf(prefix + patches, cfg.vision.width, dtype=np.float16)
        fields["lower_text"] = leaf(T, cfg.text.width, dtype=np.float16)
    else:
        fields["images"] = leaf(side, side, 3, dtype=np.uint8)
        fields["ids"] = leaf(T)
    if "mlm" in stage.losses:
        fields |= {"masked_ids": leaf(T), "masked_text": leaf(T, dtype=np.bool_)}
    if "mim" in stage.losses:
        fields["masked_patches"] = leaf(patches, dtype=np.bool_)
    return Batch(**fields)
