"""The parameters of an experiment: random initial values, shapes, and their placement on a mesh."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bridge_jax import rng
from bridge_jax.config import Config
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import sharding
from bridge_jax.types import Params


@partial(jax.jit, static_argnums=0)
def init_params(cfg: Config) -> Params:
    """Return random parameters for the whole experiment, loss weights included.

    JAX keeps the trace of the whole model, so shapes and first values share it.
    """
    model, image_px = BridgeModel(cfg), cfg.vision.image_px
    images = jnp.zeros((1, image_px, image_px, 3), jnp.uint8)
    ids, mask = jnp.zeros((1, cfg.text.length), jnp.int32), jnp.ones((1, cfg.text.length), bool)
    params = nn.init(BridgeModel.touch, model)(rng.key(cfg.seed, "params", 0), images, ids, mask)["params"]
    if cfg.loss_weighting != "fixed":
        params = {**params, "loss_weights": {name: jnp.zeros(()) for name in cfg.losses}}
    return params


def param_shapes(cfg: Config) -> Params:
    """Return the shapes of all parameters."""
    return jax.eval_shape(init_params, cfg)


def abstract_params(cfg: Config, mesh: Mesh) -> Params:
    """Return the shapes of all parameters with their shardings on the mesh. Raises ConfigError."""
    params = param_shapes(cfg)
    place = sharding.layout(cfg, params, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, place(params))
