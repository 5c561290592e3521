"""Make JAX keys from (seed, stream name, step). No key is ever stored, so a resumed run needs none."""

import hashlib

import jax


def stream_seed(seed: int, stream: str) -> int:
    """Return a 31-bit seed for a named stream; equal on every host and Python version."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def key(seed: int, stream: str, step: int | jax.Array) -> jax.Array:
    """Return the JAX key of `stream` at `step`. `step` may be traced."""
    return jax.random.fold_in(jax.random.key(stream_seed(seed, stream)), step)
