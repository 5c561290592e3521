"""Benchmark the reranking: python -m tools.bench_rerank --config=configs/flickr8k.py

The bridge scores one caption with --candidates photos, from stored lower states and with random parameters. Two ways
take turns in one process on this machine: `gathered`, where states are on the device once and each batch of pairs takes
its own from there, as search does; and `repeated`, where each batch is put together on the host with the caption's
states once a pair, as evaluation does. Prints milliseconds and pairs/s of both, and how far their logits differ.

With --topology=v5e:2x2 it measures nothing. It compiles one batch for a chip of that slice and prints the bound of its
pairs/s (tools.plan explains the bounds), and the chip-minutes of COCO's 5,000 test photos and 25,000 captions.

Run nothing else on the machine meanwhile.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from rich.console import Console

from bridge_jax import config
from bridge_jax.config import Config, ConfigError
from bridge_jax.data.padding import padded_batches
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.towers import tower_class
from bridge_jax.plan import chips, hlo
from bridge_jax.run import command_line
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params, init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from tools import figures

_CONFIG = command_line.define_config()
_CANDIDATES = flags.DEFINE_integer("candidates", 100, "Photos for the caption.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 50, "Pairs that the bridge scores at once.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of each way to time; the median is printed.", lower_bound=1)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "Slice to plan for, such as v5e:2x2; without it, this machine is timed."
)
COCO = 25_000 * 256 + 5_000 * 256  # pairs at most: each caption's best 256 photos, each photo's best 256 captions
_console = Console(soft_wrap=True, highlight=False)


def lower_shapes(cfg: Config, photos: int, captions: int) -> Lower:
    """Return the shapes of stored states."""
    tokens = tower_class("vision", cfg.vision.tower).prefix + (cfg.vision.image_px // cfg.vision.patch_px) ** 2
    dtype = jnp.dtype(cfg.compute_dtype)
    return Lower(
        image=jax.ShapeDtypeStruct((photos, tokens, cfg.vision.width), dtype),
        text=jax.ShapeDtypeStruct((captions, cfg.text.length, cfg.text.width), dtype),
        text_mask=jax.ShapeDtypeStruct((captions, cfg.text.length), jnp.bool_),
    )


def ways(cfg: Config, mesh: Mesh) -> dict[str, Callable[[], np.ndarray]]:
    """Return both ways to score the pairs."""
    draw, batches = np.random.default_rng(0), list(padded_batches(_CANDIDATES.value, _BATCH.value))
    states = jax.tree.map(
        lambda x: np.asarray(draw.normal(size=x.shape) > 0 if x.dtype == bool else draw.normal(size=x.shape), x.dtype),
        lower_shapes(cfg, _CANDIDATES.value, 1),
    )
    predict, params = build_predict(cfg, mesh), init_params(cfg)

    def gathered() -> np.ndarray:
        placed, own = predict.place(states), np.zeros(_BATCH.value, int)
        return np.concatenate([predict.match(params, placed, rows, own) for rows, _ in batches])

    def repeated() -> np.ndarray:
        logits = []
        for rows, _ in batches:
            text, mask = (np.repeat(x, len(rows), axis=0) for x in (states.text, states.text_mask))
            logits.append(np.asarray(predict.fused(params, Lower(states.image[rows], text, mask))[1]))
        return np.concatenate(logits)

    return {"gathered": gathered, "repeated": repeated}


def measure(cfg: Config) -> None:
    """Print the times of both ways."""
    both = ways(cfg, sharding.make_mesh(config.Mesh(data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    logits = {name: run() for name, run in both.items()}  # compiles
    times: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(_ROUNDS.value):
        for name, run in both.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, median in medians.items():
        rate = _CANDIDATES.value / median
        _console.print(f"{name}: {1000 * median:.0f} ms for {_CANDIDATES.value} candidates, {rate:.1f} pairs/s")
    _console.print(f"the logits differ by {np.abs(logits['gathered'] - logits['repeated']).max():.1e} at most")
    many, repeated = _CANDIDATES.value, 1000 * medians["repeated"]
    figures.keep(f"ms of {many} candidates", 1000 * medians["gathered"], figures.LESS, "states repeated", repeated)


def plan(cfg: Config) -> None:
    """Print the bound of a chip that is not here."""
    chip, devices = chips.slice_of(_TOPOLOGY.value)
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=1, tensor=1), devices[:1])
    lower = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.over_rows(mesh)),
        lower_shapes(cfg, _BATCH.value, _BATCH.value),
    )
    match = jax.jit(nn.apply(lambda model, lower: model.fused(lower).itm_logit, BridgeModel(cfg)))
    compiled: Any = match.lower({"params": abstract_params(cfg, mesh)}, lower).compile()
    program = hlo.read(compiled.as_text())
    compute, memory = program.flops / chip.flops, program.hbm_bytes / chip.hbm_rate
    rate = _BATCH.value / max(compute, memory)
    _console.print(
        f"{chip.name}, {_BATCH.value} pairs at once: compute {1000 * compute:.2f} ms, HBM {1000 * memory:.2f} ms, "
        f"at most {rate:,.0f} pairs/s, {1000 * _CANDIDATES.value / rate:.1f} ms for {_CANDIDATES.value} candidates"
    )
    _console.print(
        f"COCO's 5,000 test photos and their captions, 256 candidates each way: at most {COCO:,} pairs, "
        f"{COCO / rate / 60:.1f} chip-minutes at that rate"
    )


def main(argv: list[str]) -> None:
    """Time the reranking here, or plan it for a chip."""
    del argv
    cfg = command_line.read_config(_CONFIG)
    if cfg.bridge.design == "none":
        raise ConfigError("config.bridge.design is 'none', so there is no bridge to rerank with: choose 'cross'")
    if _TOPOLOGY.value:
        jax.config.update("jax_platforms", "cpu")  # libtpu compiles; a TPU of this machine stays free
        jax.config.update("jax_enable_compilation_cache", False)
        plan(cfg)
    else:
        measure(cfg)


if __name__ == "__main__":
    command_line.run(main)
