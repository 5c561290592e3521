"""Run a bad step again by itself, from its saved state, batch and config.

    python -m tools.replay --folder=runs/shapes/bad_step_700

Prints the examples and the first bad tensor. Exit code 3: the step is bad again; 0: every number is finite, as after a
change of the code.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from bridge_jax.config import Mesh
from bridge_jax.run import bad_step, command_line
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import abstract_params

_FOLDER = flags.DEFINE_string("folder", None, "Folder bad_step_N that a run left in its workdir.")


def replay(folder: Path) -> str:
    """Return the name of the first tensor of the step that is not finite, or an empty string."""
    saves, report, batch = bad_step.read(folder)
    step = report["step"] - 1
    cfg, mesh = saves.config(step), sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))  # of this machine
    stage_step = train_step.build(cfg, cfg.stages[report["stage"]], step, mesh)
    state = stage_step.init(jnp.int32(step), saves.restore_params(step, abstract_params(cfg, mesh)))
    state = dataclasses.replace(state, opt_state=saves.restore_opt_state(step, state.opt_state))
    batch = sharding.put_batch(batch, mesh)
    before = jax.tree.map(jnp.copy, state)
    _, metrics = stage_step.train_step(state, batch)
    return "" if metrics["healthy"] else stage_step.first_bad(before, batch)


def main(argv: list[str]) -> None:
    """Replay the step and print the result."""
    del argv
    folder = Path(command_line.required(_FOLDER))
    report = bad_step.read(folder)[1]
    print(f"step {report['step']} of stage {report['stage']!r}, image ids {' '.join(map(str, report['image_ids']))}")
    if first_bad := replay(folder):
        raise FloatingPointError(f"the first bad number is in {first_bad}; it was in {report['first_bad']}")
    print(f"every number is finite now; the first bad one was in {report['first_bad']}")


if __name__ == "__main__":
    command_line.run(main)
