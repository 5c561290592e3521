"""The inference twin of the training step: jitted functions for evaluation and export."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from bridge_jax.config import Config, evaluators
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import forward, sharding
from bridge_jax.types import Array, Lower, Params


@dataclasses.dataclass(frozen=True)
class Predict:
    """Jitted inference (no dropout) on batches of config.evals.<evaluator>.batch_size rows.

    `jit` compiles an evaluator's own function the same way. Every host passes and receives all rows, with one
    exception: of the pictures, which take time to read, each host passes only its own rows (`sharding.host_rows`).
    """

    rows: tuple[int, ...]  # this host's rows of a batch
    lower_image: Any  # params, uint8 [B,H,W,3] -> [B,P,D]; [B,k,H,W,3] -> [B,k,P,D]
    lower_text: Any  # params, ids [B,T], mask [B,T] -> [B,T,D]
    unimodal_image: Any  # params, lower [B,P,D], or [B,k,P,D] of k frames that are embedded as one -> [B,E]
    unimodal_text: Any  # params, lower [B,T,D], mask -> [B,E]
    fused: Any  # params, Lower (image [B,P,D] or [B,k,P,D]) -> (similarity [B], itm_logit [B]) of the pairs
    place: Any  # Lower of n pictures and m texts -> the same, whole on every device
    match: Any  # params, placed Lower, the picture and the text of each pair (int [B] each) -> itm_logit [B]
    jit: Any  # (function (model, arrays..., settings...), settings...) -> (params, arrays...) -> its result


def build_predict(cfg: Config, mesh: Mesh, name: str = "retrieval") -> Predict:
    """Return the jitted inference functions for the evaluator `name`.

    Raises ConfigError if the config has no such evaluator or the mesh does not divide its batch.
    """
    model = BridgeModel(cfg)
    size = evaluators.settings(cfg, name).batch_size
    sharding.check_batch(size, mesh, f"config.evals.{name}.batch_size")

    def method(function: Callable[..., Any], put: Callable[..., Any] = sharding.put_whole) -> Any:
        def run(params: Params, *args: Any) -> Any:
            with sharding.known_to_kernels(mesh):
                return sharding.spread_rows(nn.apply(function, model)({"params": params}, *args), mesh)

        jitted = jax.jit(run, out_shardings=sharding.replicated(mesh))
        return lambda params, *args: jitted(params, *put(args, mesh))

    def fused(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
        pairs = model.fused(lower)
        return (pairs.text * pairs.image).sum(axis=-1), pairs.itm_logit

    fuse = method(fused)

    def gathered(lower: Lower, image: Array, text: Array) -> Lower:
        return Lower(image=lower.image[image], text=lower.text[text], text_mask=lower.text_mask[text])

    gather = jax.jit(gathered, out_shardings=sharding.over_rows(mesh))  # compiles soon for another n or m

    @cache  # one compilation for the evaluators of all stages
    def jit(function: Callable[..., Any], *settings: Any) -> Any:
        return method(lambda model, *args: function(model, *args, *settings))

    return Predict(
        rows=sharding.host_rows(size, mesh),
        lower_image=method(forward.lower_images, sharding.put_batch),
        lower_text=method(lambda m, ids, mask: m.lower_text(ids, mask)),
        unimodal_image=method(forward.unimodal_images),
        unimodal_text=method(lambda m, lower, mask: m.unimodal_text(lower, mask)),
        fused=fuse,
        place=lambda lower: sharding.put_everywhere(lower, mesh),
        match=lambda params, lower, image, text: fuse(params, gather(lower, image, text))[1],
        jit=jit,
    )
