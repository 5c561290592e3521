"""The training step, jitted here and nowhere else."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import psutil
from flax import struct
from jax.sharding import Mesh

from bridge_jax import paths
from bridge_jax.config import Config, Stage
from bridge_jax.step import objective, optim, sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.types import Array, Batch, Params


def keep_programs(cfg: Config) -> Path:
    """Make jax keep compiled programs in a folder, for the next process, and return the folder."""
    folder = Path(cfg.cache_dir).resolve() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


@struct.dataclass
class TrainState:
    """All that a step changes. `step` counts over all stages; the optimizer belongs to the current stage.

    `healthy` turns False at the first step with a number that is not finite or a loss that is a spike. That step and
    all later ones change nothing. The loop, which reads one step late, still holds the state before the bad step.
    """

    step: Array  # int32 scalar
    healthy: Array  # bool scalar
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class StageStep:
    """The jitted functions of one stage."""

    init: Any  # (step, params) -> TrainState
    train_step: Any  # (state, batch) -> (state, metrics); the state is donated
    first_bad: Callable[[TrainState, Batch], str]  # names the step's first tensor that is not finite
    trainable: tuple[str, ...]  # parameter paths

    def compiled(self, state: TrainState, batch: Batch) -> Any:
        """Compile `train_step` for these shapes, and return the compiler's memory to the system.

        Otherwise malloc keeps that memory: 0.95 GiB after compiling `align` of configs/flickr8k.py.
        """
        program = self.train_step.lower(state, batch).compile()
        psutil.heap_trim()
        return program


def build(cfg: Config, stage: Stage, first_step: int, mesh: Mesh) -> StageStep:
    """Return the jitted functions of a stage that begins at global step `first_step`. Raises ConfigError."""
    abstract = abstract_params(cfg, mesh)
    known = paths.every(abstract)
    trainable = optim.trainable_paths(cfg, stage, known)
    gradients = objective.gradients(cfg, stage, trainable, mesh)
    tx, rate = optim.optimizer(cfg, stage, known), optim.schedule(stage)
    sharding.check_batch(stage.batch_size, mesh, f"config.stages.{stage.name}.batch_size")
    if stage.microbatches > 1:
        rows = stage.batch_size // stage.microbatches
        sharding.check_batch(rows, mesh, f"config.stages.{stage.name}.batch_size / microbatches")

    def init(step: Array, params: Params) -> TrainState:
        opt_state = tx.init(paths.split(params, trainable)[0])
        return TrainState(step=step, healthy=jnp.array(True), params=params, opt_state=opt_state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        live, frozen = paths.split(state.params, trainable)
        (total, (metrics, _)), grads = gradients(live, frozen, batch, state.step)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, live, loss=total)
        moved: Any = optax.apply_updates(live, updates)
        healthy = state.healthy & jnp.isfinite(total) & jnp.isfinite(norm)
        healthy &= total <= optim.spike_above(cfg, state.opt_state)
        after = TrainState(
            step=state.step + 1, healthy=healthy, params=paths.unflatten({**frozen, **moved}), opt_state=opt_state
        )
        unchanged = dataclasses.replace(state, healthy=healthy)
        metrics |= {"loss": total, "grad_norm": norm, "learning_rate": rate(state.step - first_step)}
        metrics["healthy"] = healthy
        return jax.tree.map(partial(jnp.where, healthy), after, unchanged), metrics

    rows, whole = sharding.over_rows(mesh), sharding.replicated(mesh)
    state = sharding.layout(cfg, abstract, mesh)(jax.eval_shape(init, jax.ShapeDtypeStruct((), jnp.int32), abstract))
    return StageStep(
        init=jax.jit(init, out_shardings=state),
        train_step=jax.jit(
            train_step,
            in_shardings=(state, rows),
            out_shardings=(state, whole),
            donate_argnums=0,
            compiler_options=sharding.compiler_options(mesh),
        ),
        first_bad=partial(_first_bad, cfg, jax.jit(gradients), trainable),
        trainable=trainable,
    )


def _first_bad(
    cfg: Config, gradients: objective.Gradients, trainable: tuple[str, ...], state: TrainState, batch: Batch
) -> str:
    """Repeat the step's forward and backward pass, and name the first tensor that is not finite.

    The order is parameters, outputs, losses, gradients. This is a separate program, because checking every tensor
    inside the step tripled its compile time (67 s against 21 s for configs/shapes.py on two cores).
    """
    live, frozen = paths.split(state.params, trainable)
    (total, (metrics, outputs)), grads = gradients(live, frozen, batch, state.step)
    leaves = jax.tree_util.tree_flatten_with_path(outputs)[0]
    named = [(f"parameter {path}", array) for path, array in {**frozen, **live}.items()]
    named += [(f"output {paths.path_of(keys)}", leaf) for keys, leaf in leaves]
    named += [
        (f"loss {name.removesuffix('/loss')}", value) for name, value in metrics.items() if name.endswith("/loss")
    ]
    named += [(f"gradient of {path}", array) for path, array in grads.items()]
    if bad := next((name for name, array in named if not jnp.isfinite(array).all()), ""):
        return bad
    limit = float(optim.spike_above(cfg, state.opt_state))
    return f"the loss, a spike above {limit:.4g}" if float(total) > limit else "the norm of the gradients"
