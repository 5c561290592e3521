"""The training step and the functions that evaluation calls. The only place that jits the training step."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from bridge_jax import forward, losses, optim, rng, rules, sharding
from bridge_jax.config import Config, ConfigError
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Array, Batch, Lower, Outputs, Params

FUSED_PASSES = {"fused", "mismatched", "masked_text", "masked_image"}


@struct.dataclass
class TrainState:
    """All that a step changes. `step` counts over all stages; the optimizer is the present stage's."""

    step: Array  # int32 scalar
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class StageStep:
    """A stage, ready to run. `watched` names the flags in `metrics["finite"]`, in the order of the computation."""

    init: Callable[[Array, Params], TrainState]
    train_step: Any  # (state, batch) -> (state, metrics); jitted, the state is donated
    trainable: tuple[str, ...]
    watched: Callable[[], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Predict:
    """Jitted inference (no dropout). Rows are whatever the caller batches."""

    lower_image: Any  # params, uint8 [B,H,W,3] -> [B,P,D]
    lower_text: Any  # params, ids [B,T], mask [B,T] -> [B,T,D]
    unimodal_image: Any  # params, lower [B,P,D] -> [B,E]
    unimodal_text: Any  # params, lower [B,T,D], mask -> [B,E]
    fused: Any  # params, Lower -> (similarity [B], itm_logit [B]) of the pairs


def init_params(cfg: Config) -> Params:
    """Return random parameters of the whole experiment, loss weights included."""
    model, image_px = BridgeModel(cfg), cfg.vision.image_px
    images = jnp.zeros((1, image_px, image_px, 3), jnp.uint8)
    ids, mask = jnp.zeros((1, cfg.text.length), jnp.int32), jnp.ones((1, cfg.text.length), bool)
    touch = partial(BridgeModel.touch, mlm="mlm" in cfg.losses, mim="mim" in cfg.losses)
    params = nn.init(touch, model)(rng.key(cfg.seed, "params", 0), images, ids, mask)["params"]
    if cfg.loss_weighting != "fixed":
        params = params | {"loss_weights": {name: jnp.zeros(()) for name in cfg.losses}}
    return params


def stage_passes(cfg: Config, stage_name: str) -> frozenset[str]:
    """Return the passes that the losses of a stage need."""
    return frozenset(p for name in cfg.stages[stage_name].losses for p in losses.bind(name, cfg.losses[name])[1])


def trains_fused(cfg: Config, stage_name: str) -> bool:
    """Return whether a stage trains the fused heads."""
    return bool(FUSED_PASSES & stage_passes(cfg, stage_name))


def build(cfg: Config, stage_name: str, first_step: int, mesh: Mesh) -> StageStep:
    """Return the jitted step of a stage that begins at global step `first_step`. Raises ConfigError."""
    model, stage = BridgeModel(cfg), cfg.stages[stage_name]
    paths = rules.paths(jax.eval_shape(lambda: init_params(cfg)))
    trainable = optim.trainable_paths(cfg, stage_name, paths)
    lower_frozen = not any(forward.is_lower(path, cfg) for path in trainable)
    if stage.cached_crops and not lower_frozen:
        trains = next(path for path in trainable if forward.is_lower(path, cfg))
        raise ConfigError(
            f"config.stages.{stage_name}.cached_crops is {stage.cached_crops}, but {trains!r} lies below the first "
            "bridged layer and trains: freeze it or set cached_crops=0"
        )
    passes = stage_passes(cfg, stage_name)
    if stage.cached_crops and passes & {"masked_text", "masked_image"}:
        raise ConfigError(
            f"config.stages.{stage_name}: masked losses read pixels and ids, which cached states replace: "
            "set cached_crops=0 or drop mlm and mim"
        )
    sharding.check_batch(stage.batch_size, mesh, f"config.stages.{stage_name}.batch_size")
    tx = optim.optimizer(cfg, stage_name, paths)
    rate = optim.schedule(stage)
    watched: list[str] = []

    def init(step: Array, params: Params) -> TrainState:
        return TrainState(step=step, params=params, opt_state=tx.init(optim.split(params, trainable)[0]))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        live, frozen = optim.split(state.params, trainable)

        def objective(live: optim.Flat) -> tuple[Array, tuple[dict[str, Array], Outputs]]:
            params = optim.unflatten({**frozen, **live})
            found = forward.outputs(
                model,
                params,
                batch,
                passes=passes,
                dropout_key=rng.key(cfg.seed, "dropout", state.step),
                mining_key=rng.key(cfg.seed, "mining", state.step),
                lower_frozen=lower_frozen,
            )
            total, metrics = combine(cfg, stage.losses, params, found, batch)
            return total, (metrics, found)

        (total, (metrics, found)), gradients = jax.value_and_grad(objective, has_aux=True)(live)
        names, finite = _finite(found, metrics, gradients)
        watched[:] = names
        updates, opt_state = tx.update(gradients, state.opt_state, live)
        moved = {**frozen, **optax.apply_updates(live, updates)}
        # A step with a non-finite number changes nothing, so what stops the run does not also spoil it.
        healthy = finite.all()
        params, opt_state = jax.tree.map(
            partial(jnp.where, healthy), (optim.unflatten(moved), opt_state), (state.params, state.opt_state)
        )
        metrics |= {
            "loss": total,
            "grad_norm": optax.global_norm(gradients),
            "learning_rate": rate(state.step - first_step),
            "logit_scale": found.logit_scale,
            "finite": finite,
        } | _bridge_metrics(state.params, found, batch)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    rows, whole = sharding.over_data(mesh), sharding.replicated(mesh)
    jitted = jax.jit(train_step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0)
    return StageStep(jax.jit(init, out_shardings=whole), jitted, trainable, lambda: tuple(watched))


def combine(
    cfg: Config, names: tuple[str, ...], params: Params, outputs: Outputs, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of the stage's losses, and every metric as `<loss>/<name>`.

    fixed      w_i
    bounded    the w_i shared out anew by softmax(log w_i + tanh(a_i)): their sum is kept, and no weight can move
               against another by more than a factor e^2. The paper's alpha has no such bound, and runs away
               (METHOD section 5, point 7).
    learnable  exp(-a_i) w_i with a_i added to the loss (Kendall et al. 2018).
    """
    weights = {name: float(cfg.losses[name]["weight"]) for name in names}
    total, metrics = jnp.zeros(()), {}
    if cfg.loss_weighting == "bounded":
        logits = jnp.stack([jnp.log(weights[n]) + jnp.tanh(params["loss_weights"][n]) for n in names])
        shared = sum(weights.values()) * jax.nn.softmax(logits)
        weights = {name: shared[i] for i, name in enumerate(names)}
    for name in names:
        loss = losses.bind(name, cfg.losses[name])[0](outputs, batch)
        weight = weights[name]
        if cfg.loss_weighting == "learnable":
            raw = params["loss_weights"][name]
            weight = weight * jnp.exp(-raw)
            total += raw
        total += weight * loss.mean
        metrics |= {f"{name}/loss": loss.mean, f"{name}/weight": jnp.asarray(weight)}
        metrics |= {f"{name}/{key}": value for key, value in loss.metrics.items()}
    return total, metrics


def _finite(outputs: Outputs, metrics: dict[str, Array], gradients: optim.Flat) -> tuple[list[str], Array]:
    """Return names and flags of what was computed, forward pass first, so that the first False names the culprit."""
    leaves = jax.tree_util.tree_flatten_with_path(outputs)[0]
    named = [(f"outputs/{rules.path_of(keys)}", leaf) for keys, leaf in leaves]
    named += [(name, value) for name, value in metrics.items() if name.endswith("/loss")]
    named += [(f"gradient of {path}", gradient) for path, gradient in gradients.items()]
    return [name for name, _ in named], jnp.stack([jnp.isfinite(x).all() for _, x in named])


def _bridge_metrics(params: Params, outputs: Outputs, batch: Batch) -> dict[str, Array]:
    """Return gates, temperatures and attention entropy (1 = uniform over the keys) of every interaction layer."""
    metrics: dict[str, Array] = {}
    for layer, values in params["bridge"].items() if "bridge" in params else ():
        for side in ("image", "text"):
            metrics[f"gate/{layer}/{side}"] = jax.nn.sigmoid(values[f"{side}_gate"])
        for direction in ("text_over_image", "image_over_text"):
            if "tau" in values[direction]:
                metrics[f"tau/{layer}/{direction}"] = jax.nn.softplus(values[direction]["tau"])
    if outputs.fused is not None:
        text_weight = batch.text_mask.astype(jnp.float32)
        for q, (tv, vt) in enumerate(zip(outputs.fused.text_over_image, outputs.fused.image_over_text, strict=True)):
            over_image = _entropy(tv) / jnp.log(tv.shape[-1])
            over_text = _entropy(vt) / jnp.log(jnp.maximum(text_weight.sum(axis=1), 2))[:, None]
            metrics[f"entropy/layer_{q}/text_over_image"] = (over_image * text_weight).sum() / text_weight.sum()
            metrics[f"entropy/layer_{q}/image_over_text"] = over_text.mean()
    return metrics


def _entropy(weights: Array) -> Array:
    return -(weights * jnp.log(weights + 1e-9)).sum(axis=-1)


def build_predict(cfg: Config) -> Predict:
    """Return the jitted inference functions."""
    model = BridgeModel(cfg)

    def method(function: Callable[..., Any]) -> Any:
        return jax.jit(lambda params, *args: nn.apply(function, model)({"params": params}, *args))

    def fused(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
        found = model.fused(lower)
        return (found.text * found.image).sum(axis=-1), found.itm_logit

    return Predict(
        lower_image=method(lambda m, images: m.lower_image(images)),
        lower_text=method(lambda m, ids, mask: m.lower_text(ids, mask)),
        unimodal_image=method(lambda m, lower: m.unimodal_image(lower)),
        unimodal_text=method(lambda m, lower, mask: m.unimodal_text(lower, mask)),
        fused=method(fused),
    )
