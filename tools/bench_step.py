"""Benchmark a stage's training step and its data: python -m tools.bench_step --config=configs/flickr8k.py

Prints, measured in one process on this machine: the model FLOP/s of every stage's step and its share of a plain
float32 matrix product's, pairs/s of the step and of the data pipeline alone, and peak memory. Model FLOPs are those of
the matrix products and convolutions that the step's own program asks for, forward and backward; of a rematerialised or
repeated product every run counts.

Every timed step follows another one, as in a run, and is followed by products for half a second: what a machine gives
changes from one second to the next, so a step is compared with its neighbour in time. After half a second without steps
a virtual machine may have given their memory back to its host, and the step then pays for getting it again. Run it with
nothing else on the machine.
"""

import itertools
import resource
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh
from rich.console import Console

from bridge_jax import config as configs
from bridge_jax.config import objectives
from bridge_jax.data import pipeline
from bridge_jax.plan import flops
from bridge_jax.run import command_line, lower_cache, origin
from bridge_jax.step import sharding, train_step
from bridge_jax.step.predict import build_predict

_CONFIG = command_line.define_config()
_STEPS = flags.DEFINE_integer("steps", 10, "Steps that are timed; the median counts.")
_console = Console(soft_wrap=True, highlight=False)


def matmul_rate(seconds: float = 0.5, side: int = 2048) -> float:
    """Return the float32 FLOP/s of square matrix products, one after another for at least `seconds`."""
    a, product = jnp.ones((side, side), jnp.float32), jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    count, started, spent = 0, time.perf_counter(), 0.0
    while spent < seconds:
        jax.block_until_ready(product(a, a))
        count, spent = count + 1, time.perf_counter() - started
    return count * 2 * side**3 / spent


def bench_stage(cfg: configs.Config, name: str, mesh: Mesh, params) -> None:
    """Print a stage's figures."""
    stage = cfg.stages[name]
    plan, make = train_step.build(cfg, name, 0, mesh), None
    if stage.cached_crops:
        predict = build_predict(cfg, mesh, objectives.watcher(stage))
        make = lower_cache.open_or_fill(cfg, stage, params, predict.lower_image, predict.lower_text, lambda *_: None)
    ds = pipeline.train(cfg, stage, seed_stream=name, make_example=make)
    batches = pipeline.batches(ds, 0, cfg.data)
    batch = sharding.put_batch(next(batches), mesh)
    state = plan.init(jnp.int32(0), jax.tree.map(jnp.copy, params))
    asked = flops.flops_of(plan.train_step, state, batch)
    compiled = plan.compiled(state, batch)
    state, _ = jax.block_until_ready(compiled(state, batch))
    times, products = [], []
    for _ in range(_STEPS.value):
        state, _ = jax.block_until_ready(compiled(state, batch))
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times.append(time.perf_counter() - started)
        products.append(matmul_rate())
    seconds = statistics.median(times)
    shares = sorted(asked / spent / rate for spent, rate in zip(times, products, strict=True))
    count = 4 * _STEPS.value
    started = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    fed = count * stage.batch_size / (time.perf_counter() - started)
    eaten = stage.batch_size / seconds
    _console.print(
        f"{name}: {asked / 1e9:.1f} GFLOP a step, {seconds:.3f} s, {asked / seconds / 1e9:.0f} GFLOP/s = "
        f"{100 * statistics.median(shares):.0f} % of the matrix product's {statistics.median(products) / 1e9:.0f} "
        f"({100 * shares[0]:.0f} to {100 * shares[-1]:.0f} %); {eaten:.1f} pairs/s eaten, "
        f"{fed:.0f} pairs/s delivered = {fed / eaten:.1f} times"
    )


def main(argv: list[str]) -> None:
    del argv
    cfg = command_line.read_config(_CONFIG)
    mesh = sharding.make_mesh(cfg.mesh)
    params = origin.initial(cfg, mesh)
    for name in cfg.stage_order:
        bench_stage(cfg, name, mesh, params)
    _console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    command_line.run(main)
