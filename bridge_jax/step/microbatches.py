"""The gradient of the whole batch, computed in parts of it one after another (docs/method.md 3.6).

In parts (`stage.microbatches` > 1) the gradient is still that of the whole batch, in two passes (Gao et al. 2021,
"GradCache"). A loss that compares rows with each other reads nothing but embeddings, so the first pass keeps those of
all parts and differentiates the loss with respect to them; the second runs each part again, forward and backward, with
the gradient of its embeddings given. Every other loss is a mean over rows (tokens, pairs), whose number the first pass
counts. Each part draws its own dropout bits and mines its own partners.
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
    """Return the same function over parts of the batch, in two passes."""
    whole = tuple(name for name in stage.losses if objectives.needs(name).passes == ("unimodal",))
    own = tuple(name for name in stage.losses if name not in whole)

    def gradients(live: paths.Flat, frozen: paths.Flat, batch: Batch, step: Array) -> Any:
        split = split_rows(batch, stage.microbatches, cfg.mining.group or 1, mesh)
        numbered = jnp.arange(stage.microbatches), split

        def joined(live: paths.Flat) -> Params:
            return paths.unflatten({**frozen, **live})

        def embed(_: None, x: tuple[Array, Batch]) -> tuple[None, Any]:
            index, part = x  # what neither the embeddings nor the counts depend on, the compiler leaves out
            found = run(joined(live), part, step, index)
            counts = {name: loss.count for name, loss in losses_of(cfg, own, found, part).items()}
            return None, (embeddings_of(found) if whole else (), counts)

        _, (embeddings, counts) = jax.lax.scan(embed, None, numbered)
        count = {name: jnp.maximum(values.sum(), 1) for name, values in counts.items()}
        weights = weights_of(cfg, stage.losses, joined(live))

        def compare(live: paths.Flat, embeddings: Any) -> Any:
            found = losses_of(cfg, whole, _compared(cfg, whole, joined(live), embeddings), _rows(split))
            return {name: loss.mean for name, loss in found.items()}, metrics_of(found)

        means, back, metrics = jax.vjp(compare, live, embeddings, has_aux=True)
        grads, pulls = back({name: jnp.asarray(weights[name], mean.dtype) for name, mean in means.items()})

        def backward(grads: paths.Flat, x: Any) -> tuple[paths.Flat, Any]:
            (index, part), pull = x

            def surrogate(live: paths.Flat) -> Any:
                found = run(joined(live), part, step, index)
                of_part = losses_of(cfg, own, found, part)
                total = sum((weights[name] * of_part[name].sum / count[name] for name in own), jnp.zeros(()))
                total += sum(jnp.vdot(g, e) for g, e in zip(pull, embeddings_of(found), strict=True)) if whole else 0.0
                sums = {name: loss.sum for name, loss in of_part.items()}
                metrics = metrics_of(of_part) | bridge_metrics(joined(live), found, part)
                return total, (sums, metrics, found)

            more, found = jax.grad(surrogate, has_aux=True)(live)
            return jax.tree.map(jnp.add, grads, more), found

        grads, (sums, of_parts, found) = jax.lax.scan(backward, grads, (numbered, pulls))
        means |= {name: values.sum() / count[name] for name, values in sums.items()}
        (total, weighed), direct = jax.value_and_grad(lambda live: weigh(cfg, joined(live), means), has_aux=True)(live)
        metrics |= weighed | {name: values.mean() for name, values in of_parts.items()}
        return (total, (metrics, found)), jax.tree.map(jnp.add, grads, direct)

    return gradients


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


def embeddings_of(found: Outputs) -> tuple[Array, Array]:
    """Return what losses over the whole batch compare: the embeddings of texts and of images."""
    return found.unimodal_text, found.unimodal_image


def _compared(cfg: Config, names: tuple[str, ...], params: Params, embeddings: Any) -> Outputs:
    """Return what the losses `names` read, which compare all rows of the batch."""
    text, image = _rows(embeddings) if embeddings else (None, None)

    def run(model: BridgeModel) -> Outputs:
        outputs = {name: objectives.needs(name).output for name in names}
        own = {name: output(model, None) for name, output in outputs.items() if output}
        return Outputs(logit_scale=model.heads.logit_scale(), unimodal_text=text, unimodal_image=image, own=own)

    return nn.apply(run, BridgeModel(cfg))({"params": params})
