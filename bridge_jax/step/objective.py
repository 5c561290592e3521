"""What a stage minimises, and its gradient: of the whole batch at once, or of parts of it one after another.

In parts (`stage.microbatches` > 1) the gradient is still that of the whole batch, in two passes (Gao et al. 2021,
"GradCache"). A loss that compares rows with each other reads nothing but embeddings, so the first pass keeps those of
all parts and differentiates the loss with respect to them; the second runs each part again, forward and backward, with
the gradient of its embeddings given. Every other loss is a mean over rows (tokens, pairs), whose number the first pass
counts. What no part shares with another stays its own: dropout draws its bits, and mining its partners, in the part.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bridge_jax import paths, rng
from bridge_jax.config import Config, ConfigError, objectives
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward, sharding
from bridge_jax.types import Array, Batch, Loss, Outputs, Params

# (live, frozen, batch, step) -> ((loss, (metrics, outputs)), gradients of live). In parts, outputs are [parts, ...].
Gradients = Callable[[paths.Flat, paths.Flat, Batch, Array], tuple[tuple[Array, tuple[Any, Outputs]], paths.Flat]]


def gradients(cfg: Config, stage_name: str, trainable: tuple[str, ...], mesh: Mesh) -> Gradients:
    """Return the function that gives a stage's loss and gradients. Raises ConfigError."""
    _check(cfg, stage_name, trainable)
    names, parts = cfg.stages[stage_name].losses, cfg.stages[stage_name].microbatches
    run = _runner(cfg, stage_name, trainable, mesh)

    def at_once(live: paths.Flat, frozen: paths.Flat, batch: Batch, step: Array) -> Any:
        params = paths.unflatten({**frozen, **live})
        found = run(params, batch, step, None)
        total, metrics = combine(cfg, names, params, found, batch)
        return total, (metrics | _bridge_metrics(params, found, batch), found)

    return jax.value_and_grad(at_once, has_aux=True) if parts == 1 else _in_parts(cfg, names, run, mesh, parts)


def _in_parts(cfg: Config, names: tuple[str, ...], run: Callable[..., Outputs], mesh: Mesh, parts: int) -> Gradients:
    """Return the same function over parts of the batch, in two passes."""
    needs = {name: objectives.needs(name) for name in names}
    whole = tuple(name for name, of in needs.items() if of.passes == ("unimodal",))
    own = tuple(name for name in names if name not in whole)

    def gradients(live: paths.Flat, frozen: paths.Flat, batch: Batch, step: Array) -> Any:
        split = split_rows(batch, parts, cfg.mining.group or 1, mesh)
        numbered = jnp.arange(parts), split

        def joined(live: paths.Flat) -> Params:
            return paths.unflatten({**frozen, **live})

        def embed(_: None, x: tuple[Array, Batch]) -> tuple[None, Any]:
            index, part = x  # what neither the embeddings nor the counts depend on, the compiler leaves out
            found = run(joined(live), part, step, index)
            counts = {name: loss.count for name, loss in losses_of(cfg, own, found, part).items()}
            return None, (_embeddings(found) if whole else (), counts)

        _, (embeddings, counts) = jax.lax.scan(embed, None, numbered)
        count = {name: jnp.maximum(values.sum(), 1) for name, values in counts.items()}
        weights = _weights(cfg, names, joined(live))

        def compare(live: paths.Flat, embeddings: Any) -> Any:
            found = losses_of(cfg, whole, _compared(cfg, whole, joined(live), embeddings), _rows(split))
            return {name: loss.mean for name, loss in found.items()}, _metrics(found)

        means, back, metrics = jax.vjp(compare, live, embeddings, has_aux=True)
        grads, pulls = back({name: jnp.asarray(weights[name], mean.dtype) for name, mean in means.items()})

        def backward(grads: paths.Flat, x: Any) -> tuple[paths.Flat, Any]:
            (index, part), pull = x

            def surrogate(live: paths.Flat) -> Any:
                found = run(joined(live), part, step, index)
                of_part = losses_of(cfg, own, found, part)
                total = sum((weights[name] * of_part[name].sum / count[name] for name in own), jnp.zeros(()))
                total += sum(jnp.vdot(g, e) for g, e in zip(pull, _embeddings(found), strict=True)) if whole else 0.0
                sums = {name: loss.sum for name, loss in of_part.items()}
                metrics = _metrics(of_part) | _bridge_metrics(joined(live), found, part)
                return total, (sums, metrics, found)

            more, found = jax.grad(surrogate, has_aux=True)(live)
            return jax.tree.map(jnp.add, grads, more), found

        grads, (sums, of_parts, found) = jax.lax.scan(backward, grads, (numbered, pulls))
        means |= {name: values.sum() / count[name] for name, values in sums.items()}
        (total, weighed), direct = jax.value_and_grad(lambda live: weigh(cfg, joined(live), means), has_aux=True)(live)
        metrics |= weighed | {name: values.mean() for name, values in of_parts.items()}
        return (total, (metrics, found)), jax.tree.map(jnp.add, grads, direct)

    return gradients


def _check(cfg: Config, stage_name: str, trainable: tuple[str, ...]) -> None:
    stage, key = cfg.stages[stage_name], f"config.stages.{stage_name}"
    passes = forward.passes_of(stage.losses)
    lower = [path for path in trainable if forward.is_lower(path, cfg)]
    if stage.cached_crops and lower:
        raise ConfigError(
            f"{key}.cached_crops is {stage.cached_crops}, but {lower[0]!r} lies below the first "
            "bridged layer and trains: freeze it or set cached_crops=0"
        )
    if stage.microbatches > 1 and "mismatched" in passes and not cfg.mining.group:
        raise ConfigError(
            f"{key}.microbatches is {stage.microbatches}, but partners are mined among all rows: set "
            "config.mining.group to a number of rows that lie in one part"
        )


def _runner(cfg: Config, stage_name: str, trainable: tuple[str, ...], mesh: Mesh) -> Callable[..., Outputs]:
    """Return (params, rows, step, part or None) -> what the stage's passes compute."""
    model, passes = BridgeModel(cfg), forward.passes_of(cfg.stages[stage_name].losses)
    lower_frozen = not any(forward.is_lower(path, cfg) for path in trainable)

    def run(params: Params, batch: Batch, step: Array, part: Array | None) -> Outputs:
        keys = (rng.key(cfg.seed, stream, step) for stream in ("dropout", "mining"))
        dropout, mining = (key if part is None else jax.random.fold_in(key, part) for key in keys)
        return forward.outputs(
            model,
            params,
            batch,
            passes=passes,
            dropout_key=dropout,
            mining_key=mining,
            lower_frozen=lower_frozen,
            spread=partial(sharding.spread_rows, mesh=mesh),
        )

    return run


def split_rows(batch: Batch, parts: int, group: int, mesh: Mesh) -> Batch:
    """Return the batch as [parts, rows of a part, ...]: every `parts`-th group of `group` neighbouring rows.

    So a device that holds whole groups, `parts` of them or a multiple, gives of its own rows to every part.
    """
    lies = NamedSharding(mesh, PartitionSpec(None, sharding.ROWS))

    def split(rows: Array) -> Array:
        groups = rows.reshape(-1, parts, group, *rows.shape[1:])
        return jax.lax.with_sharding_constraint(jnp.moveaxis(groups, 1, 0).reshape(parts, -1, *rows.shape[1:]), lies)

    return jax.tree.map(split, batch)


def _rows(parts: Any) -> Any:
    """Return [parts, rows, ...] as [parts x rows, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)


def _embeddings(found: Outputs) -> tuple[Array, Array]:
    return found.unimodal_text, found.unimodal_image


def _compared(cfg: Config, names: tuple[str, ...], params: Params, embeddings: Any) -> Outputs:
    """Return what the losses `names` read, which compare all rows of the batch."""
    text, image = _rows(embeddings) if embeddings else (None, None)

    def run(model: BridgeModel) -> Outputs:
        outputs = {name: objectives.needs(name).output for name in names}
        own = {name: output(model, None) for name, output in outputs.items() if output}
        return Outputs(logit_scale=model.heads.logit_scale(), unimodal_text=text, unimodal_image=image, own=own)

    return nn.apply(run, BridgeModel(cfg))({"params": params})


def losses_of(cfg: Config, names: tuple[str, ...], outputs: Outputs, batch: Batch) -> dict[str, Loss]:
    """Return every loss of `names`."""
    return {name: objectives.bind(name, cfg.losses[name])(outputs, batch) for name in names}


def combine(
    cfg: Config, names: tuple[str, ...], params: Params, outputs: Outputs, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of the stage's losses, and every metric as `<loss>/<name>`."""
    found = losses_of(cfg, names, outputs, batch)
    total, metrics = weigh(cfg, params, {name: loss.mean for name, loss in found.items()})
    return total, metrics | _metrics(found)


def weigh(cfg: Config, params: Params, means: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of the means of a stage's losses, and means and weights as metrics (see `_weights`)."""
    weights, total, metrics = _weights(cfg, tuple(means), params), jnp.zeros(()), {}
    for name, mean in means.items():
        if cfg.loss_weighting == "learnable":
            total += params["loss_weights"][name]
        total += weights[name] * mean
        metrics |= {f"{name}/loss": mean, f"{name}/weight": jnp.asarray(weights[name])}
    return total, metrics


def _weights(cfg: Config, names: tuple[str, ...], params: Params) -> dict[str, Any]:
    """Return the weight of every loss of a stage.

    fixed      w_i
    bounded    the w_i shared out anew by softmax(log w_i + tanh(a_i)): their sum is kept, and no weight can move
               against another by more than a factor e^2. The paper's alpha has no such bound, and runs away
               (docs/method.md 5.8).
    learnable  exp(-a_i) w_i, with a_i added to the loss (Kendall et al. 2018).
    """
    weights: dict[str, Any] = {name: float(cfg.losses[name]["weight"]) for name in names}
    if cfg.loss_weighting == "bounded":
        logits = jnp.stack([jnp.log(weights[n]) + jnp.tanh(params["loss_weights"][n]) for n in names])
        shared = sum(weights.values()) * jax.nn.softmax(logits)
        weights = {name: shared[i] for i, name in enumerate(names)}
    if cfg.loss_weighting == "learnable":
        weights = {name: weight * jnp.exp(-params["loss_weights"][name]) for name, weight in weights.items()}
    return weights


def _metrics(found: Mapping[str, Loss]) -> dict[str, Array]:
    return {f"{name}/{key}": value for name, loss in found.items() for key, value in loss.metrics.items()}


def _bridge_metrics(params: Params, outputs: Outputs, batch: Batch) -> dict[str, Array]:
    """Return the scale, and gates, temperatures and attention entropy (1 = uniform over the keys) of every layer."""
    metrics: dict[str, Array] = {"logit_scale": outputs.logit_scale}
    for layer, values in params["bridge"].items() if "bridge" in params else ():
        for side in ("image", "text"):
            metrics[f"gate/{layer}/{side}"] = jax.nn.sigmoid(values[f"{side}_gate"])
        for direction in ("text_over_image", "image_over_text"):
            if "tau" in values[direction]:
                metrics[f"tau/{layer}/{direction}"] = jax.nn.softplus(values[direction]["tau"])
    if outputs.fused is not None:
        pictures = len(outputs.fused.text) // len(batch.text_mask)  # each is fused with the row's text
        text_weight = jnp.repeat(batch.text_mask, pictures, axis=0).astype(jnp.float32)
        for q, (tv, vt) in enumerate(zip(outputs.fused.text_over_image, outputs.fused.image_over_text, strict=True)):
            over_image = _entropy(tv) / jnp.log(tv.shape[-1])
            over_text = _entropy(vt) / jnp.log(jnp.maximum(text_weight.sum(axis=1), 2))[:, None]
            metrics[f"entropy/layer_{q}/text_over_image"] = (over_image * text_weight).sum() / text_weight.sum()
            metrics[f"entropy/layer_{q}/image_over_text"] = over_text.mean()
    return metrics


def _entropy(weights: Array) -> Array:
    return -(weights * jnp.log(weights + 1e-9)).sum(axis=-1)
