"""Three steps on meshes of many CPU devices: python tests/meshes.py OUT DATAxFSDPxTENSOR... (started by test_sharding).

Writes OUT/<mesh>.npz: the losses, the first step's gradients as Adam saw them, and the parameters after three steps.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax import config as configs
from bridge_jax import optim, sharding, step
from tests import tiny

LOSSES = ("itc", "fused_itc", "itm", "cycle")  # the masked losses look at one row at a time

# softmax(q (k + b)) = softmax(q k + q b): this bias has no gradient but rounding, which Adam scales up to a whole step.
TRAIN = (("(vision|text)/.*/attention/key/bias", False), (".*", True))


def config(sizes: tuple[int, ...] = (1, 1, 1)) -> configs.Config:
    """Return the experiment: dropout on, two blocks a tower."""
    return tiny.config(
        stage=dict(batch_size=8, losses=LOSSES, train=TRAIN),
        vision=dict(depth=2),
        text=dict(depth=2, dropout=0.1),
        bridge=dict(layers=1, attention_dropout=0.1, output_dropout=0.1),
        mesh=dict(zip(sharding.AXES, sizes, strict=True)),
    )


def run(sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return path -> array on a mesh of the first devices."""
    cfg = config(sizes)
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(sizes)])
    plan = step.build(cfg, "train", 0, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, step.abstract_params(cfg, mesh))
    state = plan.init(jnp.int32(0), jax.device_put(tiny.params(cfg), placed))
    found = {}
    for index in range(3):
        state, metrics = plan.train_step(state, sharding.put_batch(tiny.batch(cfg, 8, seed=index), mesh))
        found |= {f"{index}/{name}": value for name, value in metrics.items()}
        if index == 0:
            moments = state.opt_state[1].mu
            found |= {f"gradient/{path}": value / 0.1 for path, value in moments.items()}
    found |= {f"parameter/{path}": value for path, value in optim.flatten(state.params).items()}
    return jax.device_get(found)


if __name__ == "__main__":
    folder, *meshes = sys.argv[1:]
    for mesh in meshes:
        sizes = tuple(int(size) for size in mesh.split("x"))
        np.savez(Path(folder) / f"{mesh}.npz", **{name.replace("/", "|"): v for name, v in run(sizes).items()})
