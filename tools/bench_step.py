"""Benchmark a stage's training step and its data: python -m tools.bench_step --config=configs/flickr8k.py

Prints for every stage, measured in one process on this machine: the model FLOP/s of its step and their share of a plain
float32 matrix product's, and pairs/s of the step and of the data pipeline alone. Prints peak memory at the end. Model
FLOPs count the matrix products and convolutions in the step's own program, forward and backward; a rematerialised or
repeated product counts each time it runs.

Every timed step follows another step, as in a run, and half a second of products follows it. A machine's speed changes
from one second to the next, so each step is compared with the products beside it. During half a second without steps a
virtual machine may give memory back to its host, and the next step pays to get it again. Run nothing else on the
machine meanwhile.
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

from bridge_jax.config import Config, Stage, objectives
from bridge_jax.data import pipeline
from bridge_jax.run import command_line, lower_cache, origin
from bridge_jax.step import flops, sharding, train_step
from bridge_jax.step.predict import build_predict
from tools import figures

_CONFIG = command_line.define_config()
_STEPS = flags.DEFINE_integer("steps", 10, "Steps to time; the median is printed.")
_console = Console(soft_wrap=True, highlight=False)


def bench_stage(cfg: Config, stage: Stage, mesh: Mesh, params) -> None:
    """Print the figures of one stage."""
    stage_step, make = train_step.build(cfg, stage, 0, mesh), None
    if stage.cached_crops:
        predict = build_predict(cfg, mesh, objectives.evaluator_of(stage))
        make = lower_cache.open_or_fill(cfg, stage, params, predict, lambda *_: None)
    ds = pipeline.train(cfg, stage, seed_stream=stage.name, make_example=make)
    batches = pipeline.batches(ds, 0, cfg.data)
    batch = sharding.put_batch(next(batches), mesh)
    state = stage_step.init(jnp.int32(0), jax.tree.map(jnp.copy, params))
    step_flops = flops.flops_of(stage_step.train_step, state, batch)
    compiled = stage_step.compiled(state, batch)
    state, _ = jax.block_until_ready(compiled(state, batch))
    times, products = [], []
    for _ in range(_STEPS.value):
        state, _ = jax.block_until_ready(compiled(state, batch))
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times.append(time.perf_counter() - started)
        products.append(flops.matmul_rate())
    seconds = statistics.median(times)
    shares = sorted(step_flops / spent / rate for spent, rate in zip(times, products, strict=True))
    count = 4 * _STEPS.value
    started = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    delivered = count * stage.batch_size / (time.perf_counter() - started)
    consumed, rate = stage.batch_size / seconds, statistics.median(products) / 1e9
    _console.print(
        f"{stage.name}: {step_flops / 1e9:.1f} GFLOP a step, {seconds:.3f} s, "
        f"{step_flops / seconds / 1e9:.0f} GFLOP/s = "
        f"{100 * statistics.median(shares):.0f} % of the matrix product's {rate:.0f} "
        f"({100 * shares[0]:.0f} to {100 * shares[-1]:.0f} %); {consumed:.1f} pairs/s consumed, "
        f"{delivered:.0f} pairs/s delivered = {delivered / consumed:.1f} times"
    )
    figures.keep(f"GFLOP/s of {stage.name}", step_flops / seconds / 1e9, figures.MORE, "a matrix product", rate)
    figures.keep(f"pairs/s of {stage.name}", consumed, figures.MORE)
    figures.keep(f"pairs/s of {stage.name}'s data", delivered, figures.MORE)


def main(argv: list[str]) -> None:
    del argv
    cfg = command_line.read_config(_CONFIG)
    mesh = sharding.make_mesh(cfg.mesh)
    params = origin.initial(cfg, mesh)
    for stage in cfg.run_stages:
        bench_stage(cfg, stage, mesh, params)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _console.print(f"peak memory {peak:.2f} GiB")
    figures.keep("GiB of memory at most", peak, figures.LESS)


if __name__ == "__main__":
    command_line.run(main)
