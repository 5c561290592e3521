"""The gradient of the whole batch, computed in parts, one after another (docs/method.md 3.6).

With `stage.microbatches` > 1 the gradient is still that of the whole batch. It takes two passes over the parts (Gao et
al. 2021, "GradCache"). A loss that compares rows reads nothing but embeddings: the first pass keeps the embeddings of
all parts and differentiates the loss with respect to them; the second runs each part again, forward and backward, from
that gradient of its embeddings. Every other loss is a mean over rows (tokens, pairs), which the first pass counts. Each
part draws its own dropout bits and mines its own partners.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bridge_jax import paths
from bridge_jax.config import Config, Stage, objectives
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding
from bridge_jax.step.bridge_metrics import bridge_metrics
from bridge_jax.step.weighting import losses_of, metrics_of, weigh, weights_of
from bridge_jax.types import Array, Batch, Outputs, Params

# (live, frozen, batch, step) -> ((loss, (metrics, outputs)), gradients of live). In parts, outputs are [parts, ...].
Gradients = Callable[[paths.Flat, paths.Flat, Batch, Array], tuple[tuple[Array, tuple[Any, Outputs]], paths.Flat]]


def in_parts(cfg: Config, stage: Stage, run: Callable[..., Outputs], mesh: Mesh) -> Gradients:
    """Return the function that computes a stage's loss and gradients in parts of the batch, in two passes."""
    comparing = tuple(name for name in stage.losses if objectives.needs(name).passes == ("unimodal",))
    separate = tuple(name for name in stage.losses if name not in comparing)

    def gradients(live: paths.Flat, frozen: paths.Flat, batch: Batch, step: Array) -> Any:
        split = split_rows(batch, stage.microbatches, cfg.mining.group or 1, mesh)
        numbered = jnp.arange(stage.microbatches), split

        def joined(live: paths.Flat) -> Params:
            return paths.unflatten({**frozen, **live})

        def embed(_: None, x: tuple[Array, Batch]) -> tuple[None, Any]:
            index, part = x  # the compiler drops what neither the embeddings nor the counts need
            outputs = run(joined(live), part, step, index)
            counts = {name: loss.count for name, loss in losses_of(cfg, separate, outputs, part).items()}
            return None, (embeddings_of(outputs) if comparing else {}, counts)

        _, (embeddings, counts) = jax.lax.scan(embed, None, numbered)
        count = {name: jnp.maximum(values.sum(), 1) for name, values in counts.items()}
        weights = weights_of(cfg, stage.losses, joined(live))

        def compare(live: paths.Flat, embeddings: Any) -> Any:
            outputs = _compared(cfg, comparing, joined(live), embeddings)
            losses = losses_of(cfg, comparing, outputs, _rows(split))
            return {name: loss.mean for name, loss in losses.items()}, metrics_of(losses)

        means, back, metrics = jax.vjp(compare, live, embeddings, has_aux=True)
        grads, pulls = back({name: jnp.asarray(weights[name], mean.dtype) for name, mean in means.items()})

        def backward(grads: paths.Flat, x: Any) -> tuple[paths.Flat, Any]:
            (index, part), pull = x

            def surrogate(live: paths.Flat) -> Any:
                outputs = run(joined(live), part, step, index)
                losses = losses_of(cfg, separate, outputs, part)
                total = sum((weights[name] * losses[name].sum / count[name] for name in separate), jnp.zeros(()))
                embedded = embeddings_of(outputs)
                total += sum(jnp.vdot(pull[name], each) for name, each in embedded.items()) if comparing else 0.0
                sums = {name: loss.sum for name, loss in losses.items()}
                metrics = metrics_of(losses) | bridge_metrics(joined(live), outputs, part)
                return total, (sums, metrics, outputs)

            more, results = jax.grad(surrogate, has_aux=True)(live)
            return jax.tree.map(jnp.add, grads, more), results

        grads, (sums, part_metrics, outputs) = jax.lax.scan(backward, grads, (numbered, pulls))
        means |= {name: values.sum() / count[name] for name, values in sums.items()}
        (total, weighed), direct = jax.value_and_grad(lambda live: weigh(cfg, joined(live), means), has_aux=True)(live)
        metrics |= weighed | {name: values.mean() for name, values in part_metrics.items()}
        return (total, (metrics, outputs)), jax.tree.map(jnp.add, grads, direct)

    return gradients


def split_rows(batch: Batch, parts: int, group: int, mesh: Mesh) -> Batch:
    """Return the batch as [parts, rows of a part, ...]: every `parts`-th group of `group` neighbouring rows.

    A device that holds `parts` whole groups, or a multiple, so contributes its own rows to every part.
    """
    spread = NamedSharding(mesh, PartitionSpec(None, sharding.ROWS))

    def split(rows: Array) -> Array:
        groups = rows.reshape(-1, parts, group, *rows.shape[1:])
        return jax.lax.with_sharding_constraint(jnp.moveaxis(groups, 1, 0).reshape(parts, -1, *rows.shape[1:]), spread)

    return jax.tree.map(split, batch)


def _rows(parts: Any) -> Any:
    """Return [parts, rows, ...] as [parts x rows, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)


def embeddings_of(outputs: Outputs) -> dict[str, Array]:
    """Return the embeddings that losses over the whole batch compare, by the names of their fields."""
    found = {name: getattr(outputs, name) for name in ("unimodal_text", "unimodal_image", "unimodal_wrong")}
    return {name: array for name, array in found.items() if array is not None}


def _compared(cfg: Config, names: tuple[str, ...], params: Params, embeddings: Any) -> Outputs:
    """Return the outputs for the losses `names`, which compare all rows of the batch."""

    def run(model: BridgeModel) -> Outputs:
        outputs = {name: objectives.needs(name).output for name in names}
        own = {name: output(model, None) for name, output in outputs.items() if output}
        return Outputs(logit_scale=model.heads.logit_scale(), own=own, **_rows(embeddings))

    return nn.apply(run, BridgeModel(cfg))({"params": params})
