import jax
import numpy as np

from bridge_jax import rng


def test_golden_values():
    """A change of these bits changes every run: old checkpoints would resume with different randomness."""
    assert rng.stream_seed(0, "dropout") == 0x0B6E56DC  # printf 0/dropout | sha256sum: dc566e0b...
    assert rng.stream_seed(17, "shuffle") == 0x2CC5DE43  # printf 17/shuffle | sha256sum: 43dec52c...
    assert jax.random.key_data(rng.key(0, "dropout", 3)).tolist() == [2145164352, 1213645405]


def test_a_seed_fits_where_a_signed_32_bit_integer_is_wanted():
    seeds = [rng.stream_seed(seed, "shuffle") for seed in range(200)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 200


def test_streams_seeds_and_steps_differ():
    keys = [
        tuple(jax.random.key_data(rng.key(seed, stream, step)).tolist())
        for seed in (0, 1)
        for stream in ("dropout", "masking", "mining")
        for step in range(20)
    ]
    assert len(set(keys)) == len(keys)


def test_a_stream_name_does_not_run_into_the_seed():
    assert rng.stream_seed(1, "1/a") != rng.stream_seed(11, "a")


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(rng.key(5, "dropout", step)))
    for step in (0, 1, 70_000):
        np.testing.assert_array_equal(traced(step), jax.random.key_data(rng.key(5, "dropout", step)))
