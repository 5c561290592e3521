"""Benchmark the decoder's cache: python -m tools.bench_decode --config=configs/shapes.py:task=caption

Beam search over a batch of pictures is timed twice, in one process on this machine with random parameters: with the
keys and values of earlier words kept, and with every word computed again for each next one. The two searches take
turns. Prints both times, whether both write the same captions, and how often each was compiled. Run nothing else on the
machine meanwhile.
"""

import statistics
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from bridge_jax.config import Config, ConfigError
from bridge_jax.models import search
from bridge_jax.models.decoder import Decoder
from bridge_jax.run import command_line
from tools import figures

_CONFIG = command_line.define_config()
_PICTURES = flags.DEFINE_integer("pictures", 8, "Pictures to caption at once.", lower_bound=1)
_BEAMS = flags.DEFINE_integer("beams", 32, "Beams for each picture.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Searches of each kind to time; the median is printed.", lower_bound=1)
_SHARPNESS = 4.0  # factor on random logits, so that words differ
_console = Console(soft_wrap=True, highlight=False)


def searches(cfg: Config, pictures: int, beams: int) -> dict[str, Any]:
    """Return two compiled searches for captions of random pictures: `cached` with the cache, `again` without."""
    assert cfg.decoder is not None
    module = Decoder(cfg.decoder, cfg.text.vocab_size, cfg.text.length, jnp.dtype(cfg.compute_dtype))
    special_tokens = search.SpecialTokens(start=0, end=1, pad=2, length=cfg.text.length)
    tokens = (cfg.vision.image_px // cfg.vision.patch_px) ** 2 + 1
    image = jnp.float32(np.random.default_rng(0).normal(size=(pictures, tokens, cfg.vision.width)))

    def touch(m: Decoder) -> Any:
        return m(jnp.zeros((pictures, special_tokens.length), int), m.read(image))

    params: Any = nn.init(touch, module)(jax.random.key(0))
    params["params"]["word"]["embedding"] *= _SHARPNESS / 0.02
    memory = nn.apply(lambda m: m.read(image), module)(params)

    def cached(ids_R: jax.Array, position: jax.Array, cache: Any) -> Any:
        return module.apply(params, ids_R, position, cache, memory, method="step")

    def again(ids_R: jax.Array, position: jax.Array, words_RT: jax.Array) -> Any:
        words_RT = words_RT.at[:, position].set(ids_R)
        wide = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), memory)
        logits: Any = module.apply(params, words_RT, wide)
        return logits[:, position], words_RT

    def compiled(next_logits: search.NextLogits, cache: Any) -> Any:
        return jax.jit(lambda: search.beam(next_logits, cache, pictures, beams, special_tokens, 0.7)[0])

    empty: Any = module.apply(params, pictures * beams, method="empty_cache")
    words = jnp.zeros((pictures * beams, special_tokens.length), jnp.int32)
    return {"cached": compiled(cached, empty), "again": compiled(again, words)}


def main(argv: list[str]) -> None:
    """Time the two searches in turn and print the comparison."""
    del argv
    cfg, pictures, beams = command_line.read_config(_CONFIG), _PICTURES.value, _BEAMS.value
    if cfg.decoder is None:
        raise ConfigError("config.decoder is missing: choose a config that writes captions")
    compiled = searches(cfg, pictures, beams)
    written = {name: np.asarray(run()) for name, run in compiled.items()}  # compiles
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(_ROUNDS.value):
        for name, run in compiled.items():
            started = time.perf_counter()
            run().block_until_ready()
            times[name].append(time.perf_counter() - started)
    cached, again = (statistics.median(times[name]) for name in ("cached", "again"))
    same = np.array_equal(written["cached"], written["again"])
    counts = [search._cache_size() for search in compiled.values()]
    _console.print(
        f"{pictures} pictures, {beams} beams, {cfg.text.length} words: {1000 * cached:.0f} ms with the cache"
    )
    _console.print(f"every word computed again: {1000 * again:.0f} ms, {again / cached:.1f} times as long")
    figures.keep("ms of captions by beam search", 1000 * cached, figures.LESS, "no cache", 1000 * again)
    _console.print(f"the same captions: {'yes' if same else 'no'}; compiled {counts[0]} and {counts[1]} times")


if __name__ == "__main__":
    command_line.run(main)
