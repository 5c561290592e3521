"""The training step and the functions that evaluation calls. The only place that jits the training step."""

import dataclasses
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import psutil
from flax import struct
from jax.sharding import Mesh

from bridge_jax import forward, losses, objective, optim, rng, rules, sharding
from bridge_jax.config import Config, evaluator
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Batch, Lower, Params


@struct.dataclass
class TrainState:
    """All that a step changes. `step` counts over all stages; the optimizer is the present stage's.

    `healthy` turns False at the first step with a number that is not finite or a loss that is a spike. That step and
    all after it change nothing, so the state that the loop finds, one step late, is the one that the bad step began
    with.
    """

    step: Array  # int32 scalar
    healthy: Array  # bool scalar
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class StageStep:
    """A stage, ready to run."""

    init: Any  # (step, params) -> TrainState
    train_step: Any  # (state, batch) -> (state, metrics); the state is donated
    first_bad: Callable[[TrainState, Batch], str]  # what the step computes first that is not finite
    trainable: tuple[str, ...]

    def compiled(self, state: TrainState, batch: Batch) -> Any:
        """Compile `train_step` for these shapes and give the memory that compiling took back to the system.

        Else malloc keeps it beside what the steps take: 0.95 GiB after the `align` of configs/flickr8k.py.
        """
        program = self.train_step.lower(state, batch).compile()
        psutil.heap_trim()
        return program


@dataclasses.dataclass(frozen=True)
class Predict:
    """Jitted inference (no dropout) on batches of config.evals.<evaluator>.batch_size.

    `of` does the same with an evaluator's own function. Every host gives and gets all rows. The pictures alone are
    given as each host's own (`sharding.host_rows`): nothing else takes time to read.
    """

    rows: tuple[int, ...]  # those rows

    lower_image: Any  # params, uint8 [B,H,W,3] -> [B,P,D]; [B,k,H,W,3] -> [B,k,P,D]
    lower_text: Any  # params, ids [B,T], mask [B,T] -> [B,T,D]
    unimodal_image: Any  # params, lower [B,P,D], or [B,k,P,D] of k frames that are embedded as one -> [B,E]
    unimodal_text: Any  # params, lower [B,T,D], mask -> [B,E]
    fused: Any  # params, Lower (image [B,P,D] or [B,k,P,D]) -> (similarity [B], itm_logit [B]) of the pairs
    of: Any  # (function (model, arrays..., settings...), settings...) -> (params, arrays...) -> what it returns


def init_params(cfg: Config) -> Params:
    """Return random parameters of the whole experiment, loss weights included."""
    model, image_px = BridgeModel(cfg), cfg.vision.image_px
    images = jnp.zeros((1, image_px, image_px, 3), jnp.uint8)
    ids, mask = jnp.zeros((1, cfg.text.length), jnp.int32), jnp.ones((1, cfg.text.length), bool)
    params = nn.init(BridgeModel.touch, model)(rng.key(cfg.seed, "params", 0), images, ids, mask)["params"]
    if cfg.loss_weighting != "fixed":
        params = {**params, "loss_weights": {name: jnp.zeros(()) for name in cfg.losses}}
    return params


@lru_cache(maxsize=16)
def shapes(cfg: Config) -> Params:
    """Return the shapes of all parameters. The whole model is traced for it, once for a run."""
    return jax.eval_shape(lambda: init_params(cfg))


def abstract_params(cfg: Config, mesh: Mesh) -> Params:
    """Return the shapes of all parameters, each with where it lies on the mesh. Raises ConfigError."""
    params = shapes(cfg)
    place = sharding.layout(cfg, params, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, place(params))


def trains_fused(cfg: Config, stage_name: str) -> bool:
    """Return whether a stage trains what fuses a pair."""
    return any(losses.needs(name).fuses for name in cfg.stages[stage_name].losses)


def build(cfg: Config, stage_name: str, first_step: int, mesh: Mesh) -> StageStep:
    """Return the jitted step of a stage that begins at global step `first_step`. Raises ConfigError."""
    abstract = abstract_params(cfg, mesh)
    paths = rules.paths(abstract)
    trainable = optim.trainable_paths(cfg, stage_name, paths)
    gradients = objective.gradients(cfg, stage_name, trainable, mesh)
    tx, rate = optim.optimizer(cfg, stage_name, paths), optim.schedule(cfg.stages[stage_name])
    stage, key = cfg.stages[stage_name], f"config.stages.{stage_name}"
    sharding.check_batch(stage.batch_size, mesh, f"{key}.batch_size")
    if stage.microbatches > 1:
        rows = stage.batch_size // stage.microbatches
        sharding.check_batch(rows, mesh, f"{key}.batch_size / microbatches")

    def init(step: Array, params: Params) -> TrainState:
        opt_state = tx.init(optim.split(params, trainable)[0])
        return TrainState(step=step, healthy=jnp.array(True), params=params, opt_state=opt_state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        live, frozen = optim.split(state.params, trainable)
        (total, (metrics, _)), grads = gradients(live, frozen, batch, state.step)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, live, loss=total)
        moved: Any = optax.apply_updates(live, updates)
        healthy = state.healthy & jnp.isfinite(total) & jnp.isfinite(norm)
        healthy &= total <= optim.spike_above(cfg, state.opt_state)
        after = TrainState(
            step=state.step + 1, healthy=healthy, params=optim.unflatten({**frozen, **moved}), opt_state=opt_state
        )
        kept = dataclasses.replace(state, healthy=healthy)
        metrics |= {"loss": total, "grad_norm": norm, "learning_rate": rate(state.step - first_step)}
        metrics["healthy"] = healthy
        return jax.tree.map(partial(jnp.where, healthy), after, kept), metrics

    rows, whole = sharding.over_rows(mesh), sharding.replicated(mesh)
    state = sharding.layout(cfg, abstract, mesh)(jax.eval_shape(init, jax.ShapeDtypeStruct((), jnp.int32), abstract))
    return StageStep(
        init=jax.jit(init, out_shardings=state),
        train_step=jax.jit(train_step, in_shardings=(state, rows), out_shardings=(state, whole), donate_argnums=0),
        first_bad=partial(_first_bad, cfg, jax.jit(gradients), trainable),
        trainable=trainable,
    )


def _first_bad(
    cfg: Config, gradients: objective.Gradients, trainable: tuple[str, ...], state: TrainState, batch: Batch
) -> str:
    """Run the step's forward and backward pass again and name the first tensor that is not finite.

    Parameters first, then the passes, the losses, the gradients. A program of its own: flags of every tensor inside
    the step tripled its compile time (67 s against 21 s for configs/shapes.py on two cores).
    """
    live, frozen = optim.split(state.params, trainable)
    (total, (metrics, found)), grads = gradients(live, frozen, batch, state.step)
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    named = [(f"parameter {path}", array) for path, array in {**frozen, **live}.items()]
    named += [(f"output {rules.path_of(keys)}", leaf) for keys, leaf in leaves]
    named += [
        (f"loss {name.removesuffix('/loss')}", value) for name, value in metrics.items() if name.endswith("/loss")
    ]
    named += [(f"gradient of {path}", array) for path, array in grads.items()]
    if bad := next((name for name, array in named if not jnp.isfinite(array).all()), ""):
        return bad
    limit = float(optim.spike_above(cfg, state.opt_state))
    return f"the loss, a spike above {limit:.4g}" if float(total) > limit else "the norm of the gradients"


def build_predict(cfg: Config, mesh: Mesh, name: str = "retrieval") -> Predict:
    """Return the jitted inference functions for the evaluator `name`.

    Raises ConfigError where the config has no such evaluator or its batch does not divide over the mesh.
    """
    model = BridgeModel(cfg)
    size = evaluator(cfg, name).batch_size
    sharding.check_batch(size, mesh, f"config.evals.{name}.batch_size")

    def method(function: Callable[..., Any], put: Callable[..., Any] = sharding.put_whole) -> Any:
        def run(params: Params, *args: Any) -> Any:
            return sharding.spread_rows(nn.apply(function, model)({"params": params}, *args), mesh)

        jitted = jax.jit(run, out_shardings=sharding.replicated(mesh))
        return lambda params, *args: jitted(params, *put(args, mesh))

    def fused(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
        found = model.fused(lower)
        return (found.text * found.image).sum(axis=-1), found.itm_logit

    @cache  # so that the evaluators of all stages share what was compiled
    def of(function: Callable[..., Any], *settings: Any) -> Any:
        return method(lambda model, *args: function(model, *args, *settings))

    return Predict(
        rows=sharding.host_rows(size, mesh),
        lower_image=method(forward.lower_images, sharding.put_batch),
        lower_text=method(lambda m, ids, mask: m.lower_text(ids, mask)),
        unimodal_image=method(forward.unimodal_images),
        unimodal_text=method(lambda m, lower, mask: m.unimodal_text(lower, mask)),
        fused=method(fused),
        of=of,
    )
